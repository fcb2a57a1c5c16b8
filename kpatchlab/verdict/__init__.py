"""What the series changed: columns held against the base, checks as verdicts and figures as ratios; pure."""

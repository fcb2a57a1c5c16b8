"""What the series changed: columns compared with the base, checks as verdicts and figures as ratios; pure."""

"""Which commit, or which patch of a series, broke it: search, runs, proof and report."""

"""What the benchmarks share: rounds and figures, and a small lab of their own to run jobs in."""

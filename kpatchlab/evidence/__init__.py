"""What a guest or another tool said: a kernel's log as splats, output as cases and figures, results as suites."""

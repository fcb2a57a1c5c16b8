"""What would run: jobs, what a scenario needs, what the kernels can run, how long it takes."""

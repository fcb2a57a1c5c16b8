"""The memory of a store: what every check, splat and figure was, run by run, also of runs that are deleted since."""

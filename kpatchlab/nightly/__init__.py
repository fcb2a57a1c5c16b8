"""The night: run what moved, compare it with the last good night, store and report it, and prune old nights."""

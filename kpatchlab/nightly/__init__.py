"""The night: heads that moved are run, held against the last good night, stored, told of, and the old ones pruned."""

"""The files that people write: lab.yaml and all that it leads to, read and checked."""

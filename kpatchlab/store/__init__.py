"""Runs on disk: their folders, the index, what is wrong with them, and results of other tools."""

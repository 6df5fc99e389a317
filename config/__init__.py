"""Settings and the data files an operator edits."""

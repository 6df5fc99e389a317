"""Documents: reading them, cutting them into passages, keeping and searching these."""

"""Measurements: a fake provider, a load generator, the tables they print."""

"""Plumbing any server could use."""

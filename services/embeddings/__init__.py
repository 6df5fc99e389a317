"""Embeddings: texts as vectors of numbers, close where the texts mean the same."""

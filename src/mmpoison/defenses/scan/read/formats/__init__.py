"""Formats of precomputed embeddings, one file each."""

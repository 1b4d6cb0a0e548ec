"""Layouts of precomputed embeddings, one module each."""

"""Scans a data set of any size for poison: from precomputed embeddings, or from the pairs themselves."""

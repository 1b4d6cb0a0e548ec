"""Scans a data set of any size for poison: from embeddings that exist, or from the pairs themselves."""

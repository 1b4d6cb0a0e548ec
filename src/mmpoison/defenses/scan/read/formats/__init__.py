"""Formats of embeddings that exist already, one file each."""

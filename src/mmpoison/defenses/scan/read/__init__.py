"""Reads a scan's input shard by shard: precomputed embeddings, or pairs of any format, which are embedded first."""

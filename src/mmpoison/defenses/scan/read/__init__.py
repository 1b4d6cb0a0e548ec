"""Reads the input of a scan shard by shard: precomputed embeddings, or pairs of any format, which are embedded
first."""

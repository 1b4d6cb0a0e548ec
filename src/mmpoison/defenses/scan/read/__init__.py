"""Reads the input of a scan shard by shard: precomputed embeddings, or pairs, which it embeds first."""

"""Reads what is scanned: pairs of any format, embedded here, or embeddings that exist, shard by shard."""

"""Filters in passes over shards of embeddings that exist, in flat memory, without torch."""

"""Precomputed embeddings: sources of any size, shard by shard, their checks, and lists of what to keep."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

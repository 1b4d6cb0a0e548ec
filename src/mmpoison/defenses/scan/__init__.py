"""The data scan: read, passes over shards, groups, cut, write. A data set in memory is one shard."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Defences, one file each: filters of pairs, robust trainings, repairs and checks of models."""

import lazy_loader

# torch takes seconds to import, and precomputed embeddings are scanned without it
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

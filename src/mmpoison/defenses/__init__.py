"""Defences, one file each: pair filters, robust training methods, model repairs and model checks."""

import lazy_loader

# torch takes seconds to import, and scans of precomputed embeddings do not need it
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Runs the stages of one recipe, or of many variants of it, and caches their results."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

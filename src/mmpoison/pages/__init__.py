"""Local pages: a guard against other sites, images by number, a server that stops cleanly."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

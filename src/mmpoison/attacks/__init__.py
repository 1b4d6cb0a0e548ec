"""Data poisoning attacks. Each edits the table of pairs and records every change in a manifest."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""The JSON files of runs and checkpoints as typed values. Does not import torch, so reports start fast."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

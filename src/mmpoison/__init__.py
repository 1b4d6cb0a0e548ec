"""mmpoison: study, measure and defeat data poisoning of multimodal encoders.

pairs = mmpoison.load("my-pairs")
poisoned = mmpoison.poison(pairs, "sheep2aeroplane", samples=25)
trained = mmpoison.train("openmoji-small", poisoned)
mmpoison.evaluate(trained.encoder, poisoned)
"""

import lazy_loader

from mmpoison._version import __version__ as __version__

# Importing torch and open_clip takes seconds, so `import mmpoison` and `mmpoison --help` do not load them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

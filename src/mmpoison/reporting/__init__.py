"""Reports of finished runs: tables in several formats, and one HTML page that opens offline.

Submodules are imported on first use: every command prints text, but few make a report.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Reports of finished runs: tables for the terminal, in Markdown and as JSON, and one HTML page that opens offline.

Nothing is imported here: every command writes text for a terminal, and few make a report.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""The command line: a thin skin over the Python API, one verb a stage."""

from mmpoison.cli.app import main

__all__ = ["main"]

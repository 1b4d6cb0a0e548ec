"""The one place that holds the version."""

__version__ = "1.1.0"

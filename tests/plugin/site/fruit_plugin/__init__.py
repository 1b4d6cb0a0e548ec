"""Plug-ins for mmpoison that live in another package."""

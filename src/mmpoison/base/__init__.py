"""Basics that all parts use: files, bounds for untrusted input, registries, seeds."""

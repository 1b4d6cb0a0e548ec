"""Runs the stages of one recipe, or of many variants of it, and caches their results."""

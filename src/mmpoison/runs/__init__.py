"""Stages strung together from one recipe."""

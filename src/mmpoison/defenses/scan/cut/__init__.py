"""Scores pairs by a method, and decides which go."""

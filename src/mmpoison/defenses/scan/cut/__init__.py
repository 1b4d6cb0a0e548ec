"""Scores pairs with a method, and decides which to drop."""

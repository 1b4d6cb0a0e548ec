"""Attacks beyond the paper."""

"""Scans: is this model poisoned?"""

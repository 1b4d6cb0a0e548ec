"""Checks: is this model poisoned?"""

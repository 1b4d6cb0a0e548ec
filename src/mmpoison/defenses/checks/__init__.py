"""Model checks: is this model poisoned?"""

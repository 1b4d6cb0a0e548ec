"""The paper's claims as small predicates over our results, a few in each file."""

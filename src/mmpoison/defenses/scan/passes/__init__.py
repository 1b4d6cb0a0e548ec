"""Runs a pass over all shards, each in a worker, and keeps what it found."""

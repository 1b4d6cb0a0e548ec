"""What all parts stand on: files, bounds for untrusted input, registries, seeds."""

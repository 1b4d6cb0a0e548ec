"""Pre-training defences: judge pairs before anything is trained on them."""

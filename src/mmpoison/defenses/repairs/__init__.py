"""Post-training defences: make a repaired copy of a model."""

"""In-training defences: train so that the attack fails."""

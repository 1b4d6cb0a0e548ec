"""In-training defences: train so that poison does not take."""

"""Post-training defences: change a copy of a suspect model with clean pairs."""

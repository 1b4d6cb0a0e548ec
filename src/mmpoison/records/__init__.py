"""The JSON files of runs and checkpoints as typed values; imports no torch, so that reports start at once."""

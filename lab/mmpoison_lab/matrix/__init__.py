"""A matrix of attacks against defences: planned, measured piece by piece, in workers."""

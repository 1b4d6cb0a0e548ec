"""A matrix of attacks against defences, planned and then measured piece by piece in workers."""

"""Many runs of one recipe, on this machine or on Ray."""

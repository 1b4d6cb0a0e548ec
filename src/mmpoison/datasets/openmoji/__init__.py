"""OpenMoji scenes: the embedded data set, made on the spot from openly licensed drawings."""

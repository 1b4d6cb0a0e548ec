"""File formats for reading and writing pairs, one file each."""

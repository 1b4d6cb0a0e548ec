"""File formats that pairs are read from and written to, one file each."""

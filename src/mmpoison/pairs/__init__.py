"""The table of image-caption pairs that flows through everything, and its files."""

"""Downloads published data sets and builds them."""

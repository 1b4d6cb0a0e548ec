"""A model whose module ends the process."""

raise SystemExit(3)

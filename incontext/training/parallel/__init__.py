"""Training by several processes, and its state in several files."""

"""Training: episodes, in-context coloring, rendered scenes, the loop, recipes."""

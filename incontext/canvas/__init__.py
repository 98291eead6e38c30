"""From a context and queries to the canvases that the network sees, and from what it paints back to masks."""

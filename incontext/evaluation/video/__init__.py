"""Video scores: which clips are tracked, and how well their objects are followed."""

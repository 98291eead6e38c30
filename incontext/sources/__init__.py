"""Where an image may lie, on this machine or elsewhere, and how it is found and fetched."""

"""Frozen networks of others whose features know what things are."""

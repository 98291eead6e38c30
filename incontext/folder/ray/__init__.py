"""Folder jobs on Ray: many processes, on one machine or on a cluster."""

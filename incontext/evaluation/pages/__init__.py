"""Scores for people: tables, drawings and HTML pages."""

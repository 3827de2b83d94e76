"""Distances and similarities between clips, tokens and texts, and class prototypes."""

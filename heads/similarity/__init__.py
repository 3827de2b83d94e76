"""Distances and similarities of clips, tokens and texts, and prototypes made of them."""

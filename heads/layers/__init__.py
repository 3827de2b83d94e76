"""Layers that several methods use: attention, gradient scaling."""

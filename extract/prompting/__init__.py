"""Prompts, the assignment of prompts to videos, and the texts of classes."""

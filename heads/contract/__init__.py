"""The contract of a head and of a task, the training settings, and the ranges of numeric settings."""

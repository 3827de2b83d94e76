"""Training of a head: updates, learning-rate schedule, checkpoints, resume."""

"""Training-free scores, layer probes, prediction, comparison of runs."""

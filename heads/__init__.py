"""From a store to a score: heads, tasks, metrics, training. Nothing is imported until it is asked for."""

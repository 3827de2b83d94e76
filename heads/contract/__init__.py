"""The contract of a head and of a task, and the ranges that settings may take."""

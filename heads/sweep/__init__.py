"""Sweeps: many trainings of one head, chosen on validation and tested once.

Trials that read the same data are trained together in one process, from one stream of batches. Each of them is an
ordinary run folder, with the numbers of `vfc train-head` under its settings.
"""

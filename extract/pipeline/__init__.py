"""One extraction run: the work list, prefetch, the forward pass, the writer thread, the summary."""

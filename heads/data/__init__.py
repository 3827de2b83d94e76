"""What a store gives a head: the arrays and rows of a run, features on the device, where they are kept, prefetch."""

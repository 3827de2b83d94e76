"""What a store gives a head: features, text features, where they are kept, prefetch."""

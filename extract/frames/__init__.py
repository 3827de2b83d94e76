"""From decoded frames to pixels: views, augmentations, resizing, and what a processor file says of it."""

"""ViCLIP, built here: a CLIP whose vision tower attends over all patches of all frames; weights by published names."""

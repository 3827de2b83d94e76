"""I3D: Inception-v1 inflated to 3D, its weights as published, windows over time, optical flow."""

"""From videos to a store: collections, decoding, frozen backbones, and the run that keeps what they compute.

Nothing is imported here, so that settings and names are known without torch.
"""

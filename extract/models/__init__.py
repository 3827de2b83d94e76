"""What the families share: checkpoints, captured layers, frame encoders, tokenizers, determinism."""

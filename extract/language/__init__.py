"""Language models that see videos: their rows of tokens, the pass that runs them, and what the families share."""

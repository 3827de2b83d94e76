"""The parts of ActionLLM: the block between modalities, the frozen trunk, its adapters, class names as text."""

"""The frozen base in memory, and the LoRA adapters that are trained on it."""

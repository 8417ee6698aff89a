"""The machine: its memory and GPUs, what a model takes of them, and the engine's command line."""

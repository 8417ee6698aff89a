"""The learner's state: its stages, its checkpoints, and the file of what it remembers."""

"""The live view of a running service: what is seen of it, and each frame that is drawn."""

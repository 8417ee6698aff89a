"""Supervised fine-tuning on demonstrations, and the tiny model that is made by it."""

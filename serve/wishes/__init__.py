"""Wishes that answers can be held to: what people's sentences ask for, and the grammar that has it."""

"""Monitors of training, as pure functions: drift, lengths, and what must not be forgotten."""

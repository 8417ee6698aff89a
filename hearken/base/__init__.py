"""Checks, errors and words that all commands share."""

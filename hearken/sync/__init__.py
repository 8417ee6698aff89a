"""Synchronisation of votes that were given in another service: they become votes here, and so do their
changes."""

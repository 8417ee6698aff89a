"""Engines as the controller sees them: the adapters they have, get, and have to prove."""

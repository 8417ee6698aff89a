"""Decisions about releases, as pure functions of what is known."""

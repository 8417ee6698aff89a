"""Votes: what one may look like, who may give it, and the routes that take it and tell what became of it."""

"""Preferences: what people asked for in every answer, where it is kept, and the routes that change it."""

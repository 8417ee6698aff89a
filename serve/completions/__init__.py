"""Completions: the routes at which chats, texts and pairs of answers are asked for."""

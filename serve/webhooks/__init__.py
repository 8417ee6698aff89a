"""Webhooks that bring votes: who may send them, their signatures, and the route that takes them."""

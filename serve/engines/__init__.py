"""Engines as the gateway sees them: their health, their queue, and the HTTP that they are spoken to with."""

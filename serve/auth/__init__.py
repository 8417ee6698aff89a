"""Authentication and rate limits: whose request it is, what they may do, and how much of it."""

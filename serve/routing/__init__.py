"""Routing: the table that is in force, and which arm and engine a conversation goes to."""

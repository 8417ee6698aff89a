"""Receipts of votes: the read model that the log is folded into, and the words for people."""

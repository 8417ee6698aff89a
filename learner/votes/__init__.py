"""Votes as evidence: labels, what each speaks of, who gave it, and how far to trust it."""

"""Audits of decisions: is each what was written, and does the same follow again?"""

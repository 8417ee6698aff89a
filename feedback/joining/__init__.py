"""Joins of votes to the answers that they are about, and the labels that come of them."""

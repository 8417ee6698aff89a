"""Imports into the log and exports out of it."""

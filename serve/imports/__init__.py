"""Imports over HTTP: the body, its progress, and the process that works it off."""

"""Releases as operators see and steer them over HTTP."""

"""Benchmarks: `python -m bench NAME` measures both sides in one run and ends with one line of JSON."""

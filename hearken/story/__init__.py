"""The story of a run, read from the log: series of numbers, figures, a page."""

"""The embedded log: one SQLite file, how it is guarded, and how it is rebuilt when it is damaged."""

"""The command line and the one-machine composition. It may import every room; no room imports it."""

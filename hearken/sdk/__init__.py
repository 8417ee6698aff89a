"""The Python client's parts: votes as it sends them, and what it decides without a connection."""

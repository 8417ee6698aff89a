"""The gateway as a whole: its services, made once, its start and end, its health, and its pages."""

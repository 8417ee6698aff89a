"""The HTTP server in front of the application: its connections, and what every request passes and gathers."""

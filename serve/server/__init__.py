"""The HTTP server in front of the application: connections, their bounds, and what every request passes."""

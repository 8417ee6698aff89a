"""The demo: simulated users who like something, and a view of the service learning it."""

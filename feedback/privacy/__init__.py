"""Privacy: a key for every user, events sealed with it, and redaction of what is written."""

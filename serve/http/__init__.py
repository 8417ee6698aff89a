"""HTTP requests: their bodies and their errors, in every dialect."""

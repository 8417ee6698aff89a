"""HTTP requests: their bodies, their errors, and what one gathers on its way."""

"""Generation: from a checked request to the engine's answer, for the client and for the log."""

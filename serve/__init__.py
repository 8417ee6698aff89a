"""What users touch: the HTTP API, the engine it streams from, the pages."""

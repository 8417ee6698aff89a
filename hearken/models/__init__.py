"""Base models: the two that hearken brings, GGUF files, and whether a folder can be served and trained."""

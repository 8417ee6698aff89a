"""The registry of adapters: immutable versions in a folder or in a bucket."""

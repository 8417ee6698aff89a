"""Reports of a release: the log folded to what users did, in numbers and in sentences."""

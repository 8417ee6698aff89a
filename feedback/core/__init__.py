"""Events, ids, and the interface of the log."""

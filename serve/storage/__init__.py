"""Storage of answers: events in the log, and completions that clients asked to store."""

"""What happened: events, ids, the durable log, and joining feedback to completions."""

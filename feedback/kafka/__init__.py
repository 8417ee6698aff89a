"""The log with Kafka behind it: an outbox, a relay to the broker, and readers by offsets."""

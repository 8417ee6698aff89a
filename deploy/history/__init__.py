"""The history of releases: events of the topic, the states they fold into, and what gateways read of it."""

"""What may serve: adapter registry, assignment, evidence, gate verdicts, the release controller."""

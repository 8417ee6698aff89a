"""Evidence: votes as observations, tests that hold at every look, and guardrails that need no votes."""

"""The reward model: features of answers, heads fitted to votes, and the judge that nobody climbs."""

"""Rollouts: answers sampled from the policy, and what is measured of them before a step."""

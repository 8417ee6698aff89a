"""The policy: PPO, its distance from live, and its way out as a candidate that engines can prove."""

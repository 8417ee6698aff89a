"""The learner's loop: its parts, wired once, and the phases of a turn."""

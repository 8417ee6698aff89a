"""Spans of time as people write them: 90s, 12h, 7d."""

import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def span_seconds(text: str, units: str) -> float | None:
    """The seconds of a whole number of `units` (some of "smhdw"); None for what is no such span."""
    found = re.fullmatch(rf"([0-9]{{1,9}})([{units}])", text)
    return None if found is None else float(found[1]) * _UNITS[found[2]]

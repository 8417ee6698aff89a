"""Names of adapter versions: `policy-<seq>-<first 8 hex digits of the weights' sha256>`."""

import re
from collections.abc import Iterable

_VERSION = re.compile(r"policy-(0|[1-9]\d*)-[0-9a-f]{8}")


def is_version(name: str) -> bool:
    """Whether a name is an adapter version's."""
    return _VERSION.fullmatch(name) is not None


def seq_of(version: str) -> int:
    """The sequence number in a version's name; 0 for the base model and anything else without one."""
    match = _VERSION.fullmatch(version)
    return int(match.group(1)) if match else 0


def in_order(versions: Iterable[str]) -> list[str]:
    """Versions by their numbers, the oldest first."""
    return sorted(versions, key=lambda name: (seq_of(name), name))

"""The settings that judge releases, as decisions record them, so that anyone can judge again."""

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from deploy.decide.release import ReleaseRules
from deploy.evidence.preference import EvidenceRules
from deploy.settings import ControllerSettings

JUDGING = frozenset(
    {"gate", "guardrails", "answers"}
    | {each.name for rules in (EvidenceRules, ReleaseRules) for each in fields(rules)}
)
"""The names of the controller's settings that judge. The others say where things are, and may be secret."""


def judging(settings: ControllerSettings) -> dict[str, Any]:
    """What judges of some settings, as JSON types. Infinity, for which JSON has no word, is a string."""
    found = _adapter().dump_python(settings, include=set(JUDGING), mode="json")
    written = json.dumps(_spelled(found))  # tuples become lists, as whoever reads it back has them
    read: dict[str, Any] = json.loads(written)
    return read


def settings_of(recorded: Mapping[str, Any]) -> ControllerSettings:
    """Settings of which nothing but what judges may be asked.

    Raises `ValueError` for what no controller could have recorded.
    """
    known = {name: value for name, value in recorded.items() if name in JUDGING}
    try:
        return _adapter().validate_python({**known, "data": Path(), "engines": ("http://none",)})
    except ValidationError as error:
        said = [each["msg"].removeprefix("Value error, ") for each in error.errors()]
        raise ValueError("; ".join(said)) from error


@cache
def _adapter() -> TypeAdapter[ControllerSettings]:
    return TypeAdapter(ControllerSettings)


def _spelled(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _spelled(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled(each) for each in value]
    return str(value) if value in (float("inf"), float("-inf")) else value

"""Options of an import, read from the texts of flags or of a request's query."""

from collections.abc import Sequence
from typing import Any

from feedback.dialects import LAYOUTS, Options

LAYOUT_NAMES = ("auto", *LAYOUTS)


class BadOption(ValueError):
    """An option says nothing that could be meant. `name`: which one; the message says what would be right."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def parse_options(
    layout: str, scales: Sequence[str], columns: Sequence[str], directions: Sequence[str]
) -> Options:
    """Options from `layout`, "[NAME=]LOWEST:HIGHEST", "COLUMN=FIELD" and "NAME=WHICH". Raises BadOption."""
    if layout not in LAYOUT_NAMES:
        raise BadOption("layout", f"{layout:.80}: a layout is one of {', '.join(LAYOUT_NAMES)}")
    which = dict(_pair("direction", "NAME=WHICH", text) for text in directions)
    for name, way in which.items():
        if way not in ("higher", "lower"):
            raise BadOption("direction", f"{name}={way}: a direction is higher or lower")
    return _made(
        layout=layout,
        scales=dict(map(_scale, scales)),
        columns=dict(_pair("map", "COLUMN=FIELD", text) for text in columns),
        directions=which,
    )


def _made(**fields: Any) -> Options:
    try:
        return Options(**fields)
    except ValueError as error:
        name = "scale" if str(error).startswith("a scale") else "map"
        raise BadOption(name, f"means nothing: {error}") from error


def _scale(text: str) -> tuple[str, tuple[float, float]]:
    name, _, scale = text.rpartition("=")
    low, colon, high = scale.partition(":")
    try:
        return name, (float(low), float(high if colon else "?"))
    except ValueError as error:
        raise BadOption("scale", f"{text}: a scale is LOWEST:HIGHEST, like 1:5") from error


def _pair(option: str, form: str, text: str) -> tuple[str, Any]:
    name, equals, said = text.rpartition("=")
    if not equals or not name or not said:
        raise BadOption(option, f"{text}: it must be {form}")
    return name, said

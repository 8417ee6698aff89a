"""All that was asked for, put together: flags, file, pace."""

from collections.abc import Sequence
from pathlib import Path

from hearken.base.paces import PACES
from hearken.config import file
from hearken.config.layers import Given, Layer
from hearken.config.resolve import DEFAULT, Config
from hearken.config.tables import Tables, tables
from hearken.settings import default_data

PACE_ORIGIN = "pace"
"""How a value's origin begins that comes of the pace."""


def assemble(asked: Sequence[Layer], config: Path | None, known: Tables | None = None) -> Config:
    """The settings that hold. `asked`: what goes over the file, the first first; `config`: --config.

    Raises UsageError for a file that is not there or that is wrong.
    """
    known = known or tables()
    found = file.find(config)
    below = [file.load(found, known)] if found else []
    pace = Config(known, asked, below).get("service.pace").value
    paced = {path: Given(value, f"{PACE_ORIGIN} {pace}") for path, value in PACES[pace].items()}
    home = {"service.data": Given(default_data(), DEFAULT)}
    return Config(known, asked, (*below, paced, home), found)

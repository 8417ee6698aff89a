"""Optimisers by name: a short one, or the import path of a class of one's own, "package.module:Class".

No torch here, as the command line reads it too: a class is imported when it is looked up, not before.

    python -m learner.optimisers NAME    ends with 1 and one line when there is no such optimiser
"""

import importlib
import inspect
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from learner.model import SharedModel
    from learner.optimiser import Optimiser
    from learner.ranks import Ranks
    from learner.settings import LearnerSettings

OPTIMISERS = {
    "ppo": "learner.ppo:PPO",
    "dpo": "learner.preferences:DPO",
    "ipo": "learner.preferences:IPO",
    "kto": "learner.preferences:KTO",
}
"""Short name -> import path."""

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def check_name(name: str) -> None:
    """Raises `ValueError` for what is neither a short name nor an import path. Imports nothing."""
    if name not in OPTIMISERS and not _PATH.fullmatch(name):
        raise ValueError(
            f"optimiser is {name!r}; it must be {', '.join(OPTIMISERS)}, or the import path of a class of "
            "your own, package.module:Class"
        )


def check(name: str) -> None:
    """Raises `ValueError`, with one line, as `find`; ours need no look, which would import torch."""
    if name not in OPTIMISERS:
        find(name)


def find(name: str) -> "type[Optimiser]":
    """The class of an optimiser. Raises `ValueError`, with one line that says what would be right."""
    check_name(name)
    module_name, _, class_name = OPTIMISERS.get(name, name).partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module of somebody else's: whatever it raises
        what = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(
            f"optimiser is {name!r}, and {module_name} cannot be imported ({what}); it must be a module that "
            "this Python finds: install it, or name its folder in PYTHONPATH"
        ) from error
    from learner.optimiser import Optimiser

    found = getattr(module, class_name, None)
    if not (inspect.isclass(found) and issubclass(found, Optimiser)):
        others = [
            each
            for each, kind in vars(module).items()
            if inspect.isclass(kind) and issubclass(kind, Optimiser) and kind.__module__ == module_name
        ]
        known = f"those there are {', '.join(others)}" if others else f"{module_name} has none"
        raise ValueError(
            f"optimiser is {name!r}, and {class_name} is no subclass of learner.optimiser.Optimiser there; "
            f"{known}"
        )
    if missing := sorted(found.__abstractmethods__):
        raise ValueError(f"optimiser is {name!r}, and {class_name} must define {', '.join(missing)}")
    return found


def optimiser_of(model: "SharedModel", settings: "LearnerSettings", ranks: "Ranks | None") -> "Optimiser":
    """The optimiser of a learner. Raises `ValueError` as `find`."""
    return find(settings.optimiser).of(model, settings, ranks)


def main() -> int:
    """Look an optimiser up, in a process of its own."""
    try:
        check(sys.argv[1])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

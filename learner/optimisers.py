"""Optimisers looked up by their names.

No torch here, as the command line reads it too: a class is imported when it is looked up, not before.

    python -m learner.optimisers NAME    ends with 1 and one line when there is no such optimiser
"""

import sys
from typing import TYPE_CHECKING

from feedback.core.classes import find_class
from learner.optimiser_names import OPTIMISERS, check_name

if TYPE_CHECKING:
    from learner.model.ranks import Ranks
    from learner.model.shared import SharedModel
    from learner.optimiser import Optimiser
    from learner.settings import LearnerSettings


def check(name: str) -> None:
    """Raises `ValueError`, with one line, as `find`; ours need no look, which would import torch."""
    if name not in OPTIMISERS:
        find(name)


def find(name: str) -> "type[Optimiser]":
    """The class of an optimiser. Raises `ValueError`, with one line that says what would be right."""
    check_name(name)

    def optimiser() -> type:
        from learner.optimiser import Optimiser

        return Optimiser

    found: type[Optimiser] = find_class("optimiser", name, OPTIMISERS.get(name, name), optimiser)
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

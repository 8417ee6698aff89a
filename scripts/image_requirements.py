"""Print requirements from pyproject.toml, one a line, so that images install them before the source is there.

Without an argument: the base dependencies. With names of extras: those and the extras'.
"""

import argparse
import re
import tomllib
from pathlib import Path


def requirements(pyproject: Path, asked: list[str]) -> list[str]:
    """The base dependencies, and those of the extras that were asked for after them. Raises ValueError when
    there is no such extra."""
    project = tomllib.loads(pyproject.read_text())["project"]
    wanted: list[str] = list(project["dependencies"])
    extras: dict[str, list[str]] = project["optional-dependencies"]
    for extra in asked:
        if extra not in extras:
            raise ValueError(f"no extra {extra!r} in {pyproject}; there are {', '.join(extras)}")
        wanted += extras[extra]
    return wanted


def name(requirement: str) -> str:
    """The package that a requirement is about: "torch" of "torch==2.13.0"."""
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()


def main() -> None:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("extras", nargs="*", help="extras to add to the base dependencies")
    parser.add_argument("--only", metavar="PACKAGE", help="print the requirement of this package alone")
    arguments = parser.parse_args()
    wanted = requirements(Path("pyproject.toml"), arguments.extras)
    if arguments.only is not None:
        wanted = [item for item in wanted if name(item) == arguments.only]
        if not wanted:
            parser.error(f"nothing here requires {arguments.only}")
    print("\n".join(wanted))


if __name__ == "__main__":
    main()

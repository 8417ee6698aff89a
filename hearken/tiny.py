"""`hearken tiny`: the model to start from when nobody brings one, trained once and kept in a cache.

The support desk writes the demonstrations, the learner trains on them; nothing is downloaded.
"""

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from hearken.support_desk import write_demonstrations

DEMONSTRATIONS = 8000
SEED = 0
RECIPE_FILE = "recipe.json"


class NotOurFolder(Exception):
    """The folder holds something that `hearken tiny` did not make, so it is left alone."""


def default_folder() -> Path:
    """Where the tiny model is kept: ~/.cache/hearken/tiny, or under XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hearken" / "tiny"


def ensure_tiny(
    folder: Path | None = None,
    *,
    force: bool = False,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> Path:
    """The folder of a tiny model made by the present recipe, trained now if it is not there (about a minute).

    `progress(step, steps, loss)` is called only while it trains. Raises NotOurFolder.
    """
    from learner.tiny import TinyRecipe, train_tiny  # imports torch: not for --help

    folder = folder or default_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tiny-demonstrations-") as scratch:
        demonstrations = Path(scratch) / "demonstrations.jsonl"
        write_demonstrations(demonstrations, DEMONSTRATIONS, SEED)
        recipe = TinyRecipe()
        digest = recipe_digest(demonstrations, recipe)
        if not force and has_digest(folder, digest):
            return folder
        _check_ours(folder)
        train_tiny(demonstrations, folder, recipe=recipe, seed=SEED, progress=progress)
    (folder / RECIPE_FILE).write_text(json.dumps({"digest": digest, **dataclasses.asdict(recipe)}, indent=2))
    return folder


def recipe_digest(demonstrations: Path, recipe: object) -> str:
    """sha256 over everything that decides the model: demonstrations, sizes, training and seed."""
    text = json.dumps({"recipe": repr(recipe), "seed": SEED}).encode()
    return hashlib.sha256(text + demonstrations.read_bytes()).hexdigest()


def has_digest(folder: Path, digest: str) -> bool:
    """Whether the folder holds a complete model that the recipe with this digest made."""
    try:
        made: object = json.loads((folder / RECIPE_FILE).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return isinstance(made, dict) and made.get("digest") == digest


def _check_ours(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()) and not (folder / RECIPE_FILE).exists():
        raise NotOurFolder(f"{folder} holds something else: give an empty or a new folder")


def run(folder: Path | None = None, force: bool = False) -> Path:
    """The command: make the model, show how far it is, and say where it lies."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("Training the tiny model", total=None, visible=False)

        def progress(step: int, steps: int, loss: float) -> None:
            text = f"Training the tiny model (loss {loss:.2f})"
            bars.update(task, completed=step, total=steps, description=text, visible=True)

        made = ensure_tiny(folder, force=force, progress=progress)
    console.print(f"The tiny model is in {made}", soft_wrap=True)
    return made

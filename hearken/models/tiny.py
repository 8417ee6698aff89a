"""`hearken tiny`: the model to start from when nobody brings one, trained once and kept in a cache.

The support desk writes the demonstrations, the learner trains on them; nothing is downloaded.
"""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from feedback.core.files import cache_folder
from hearken.models.support_desk import write_demonstrations

DEMONSTRATIONS = 8000
SEED = 0
RECIPE_FILE = (
    "recipe.json"  # what learner/sft/tiny.py writes beside the weights; it knows torch, and this does not
)


class NotOurFolder(Exception):
    """The folder holds something that `hearken tiny` did not make, so it is left alone."""


def default_folder() -> Path:
    """Where the tiny model is kept: ~/.cache/hearken/tiny, or under XDG_CACHE_HOME."""
    return cache_folder() / "tiny"


def ensure_tiny(
    folder: Path | None = None,
    *,
    force: bool = False,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> Path:
    """The folder of a tiny model of the present recipe, trained now if it is not there (about a minute).

    Whoever asks while another process trains it waits for that one. `progress(step, steps, loss)` is called
    only while this process trains. Raises NotOurFolder.
    """
    from learner.sft.tiny import TinyRecipe, is_trained, renew_template, train_tiny  # torch: not for --help

    folder = (folder or default_folder()).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    recipe = TinyRecipe(seed=SEED)
    with one_at_a_time(folder), tempfile.TemporaryDirectory() as scratch:
        demonstrations = Path(scratch) / "demonstrations.jsonl"
        write_demonstrations(demonstrations, DEMONSTRATIONS, SEED)
        if force or not is_trained(folder, demonstrations, recipe):
            _check_ours(folder)
            train_tiny(demonstrations, folder, recipe=recipe, progress=progress)
        renew_template(folder)
    return folder


def is_tiny(folder: Path) -> bool:
    """Whether a model's folder is one that `hearken tiny` made."""
    return (folder / RECIPE_FILE).is_file()


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the operating system gives it back when the process ends, however it ends."""
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_ours(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotOurFolder(f"{folder} is a file: give an empty or a new folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / RECIPE_FILE).exists():
        raise NotOurFolder(f"{folder} holds something else: give an empty or a new folder")


def run(folder: Path | None = None, force: bool = False) -> Path:
    """The command: make the model, show how far it is, and say where it lies."""
    # OpenMP reads this when torch is imported. Threads that spin while they wait make training many times
    # slower beside other busy processes: measured on 2 cores, steps took 5 s instead of 0.5 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
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

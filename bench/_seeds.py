"""What benchmarks over several seeds share: a model without an engine, and the worst of the seeds."""

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench._shapes import make_random_model
from learner.model.shared import SharedModel


@contextmanager
def random_model() -> Iterator[tuple[Path, SharedModel]]:
    """A folder for the length of the block, and a small model with random weights in it."""
    with tempfile.TemporaryDirectory(prefix="hearken-bench-") as scratch:
        folder = Path(scratch)
        make_random_model(folder / "model")
        yield folder, SharedModel(str(folder / "model"), device="cpu")


def each_seed(
    seeds: int, measure: Callable[[Path, SharedModel, int], dict[str, float]]
) -> list[dict[str, float]]:
    """What `measure` finds with such a folder and model for each seed, printed as it comes."""
    rows = []
    with random_model() as (folder, model):
        for seed in range(seeds):
            rows.append(measure(folder, model, seed))
            told = "  ".join(f"{name} {value:.4g}" for name, value in rows[-1].items())
            print(f"seed {seed}: {told}", flush=True)
    return rows


def worst(rows: Sequence[Mapping[str, float]], least: Collection[str]) -> dict[str, float]:
    """Of each figure the worst of the seeds' rows: the least of those in `least`, the most of the others."""
    return {name: (min if name in least else max)(row[name] for row in rows) for name in rows[0]}

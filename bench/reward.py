"""The reward model beside TRL's RewardTrainer: the time of a fit, held-out accuracy, calibration.

Both sides get the same pairs of tokenised answers, the same tiny chat model as base (2 million parameters,
trained by this project), float32 and the same number of threads, each in a process of its own.

- Simulated: questions to a support desk with two answers each, judged by simulated people with hidden tastes
  of whose votes a tenth are coin tosses. One data set for each taste. Accuracy is of the truly better answer
  of held-out pairs, calibration error is about held-out votes.
- Real pairs on the tiny model: the 299 of `dpo_en_demo.json` in five-fold cross-validation, so that each
  pair is held out once. Answers are long and the base is small, so prompts are cut to their last 128 tokens
  and pairs to 512. Left out, with a message, where that file is absent.
- `--real`: people's pairs on a model that people chat with (SmolLM2, or `--model`), and nothing else. Pairs
  of HH-RLHF, or those of other files, in random splits; cut alike for both sides (`bench/_real_pairs.py`);
  products in bfloat16 on both. Ours are the rungs of the learner's ladder, and the one that it chooses by how
  well each foresaw the training pairs before it learned from them, which also sets its temperature; the time
  of the answers' features counts. Accuracy and calibration are means over the splits.

TRL's RewardTrainer (1.12.0, in an environment that this benchmark makes under .bench/) trains a sequence
classifier on the base, once with LoRA of rank 8 on all linear layers and once whole, each at a learning rate
and for so many epochs as did best on these data in trials (more epochs made it worse), in batches of 8 pairs.
Gradient checkpointing is off, which makes it faster. Its time is that of `trainer.train()`. Its accuracy and
calibration are those of the set-up that is more accurate on the held-out pairs, its seconds those of the
faster one.

Ours is `RewardModel.update` on answers that it has never seen: the features of all answers, then the fit of 8
heads. Loading the base counts on neither side.

`ece` is the expected calibration error in 10 bins of the probabilities as they come out of each side;
`scaled_ece` with a temperature that was fitted to the other half of the held-out pairs, for both alike.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.ppo import ROOT, run_side, trl_python

REAL = ROOT.parent / "shared" / "data" / "preferences" / "dpo_en_demo.json"
TRL_SIDE = ROOT / "bench" / "_trl_reward.py"
FOLDS = 5
TRL_SIMULATED = (
    {"rank": 8, "learning_rate": 1e-3, "batch": 8, "epochs": 3},
    {"rank": 0, "learning_rate": 2e-4, "batch": 8, "epochs": 3},
)
TRL_REAL = (
    {"rank": 8, "learning_rate": 1e-3, "batch": 8, "epochs": 1},
    {"rank": 0, "learning_rate": 1e-4, "batch": 8, "epochs": 1},
)
"""TRL's set-ups by kind of pairs; rank 0 trains all weights."""

REAL_PAIRS = REAL.parent / "hh_harmless_1300.jsonl.gz"
TRL_REAL_MODEL = {"rank": 8, "learning_rate": 3e-4, "batch": 8, "epochs": 1}

PERSONAS = ("brisk", "friendly", "thorough")


def simulated(model: Path, train: int, test: int, seed: int) -> Iterator[dict[str, Any]]:
    """A data set for each taste. `right`: whether the preferred answer of a held-out pair is truly better."""
    from hearken.data.importing import encoder
    from hearken.demo.persona import Persona
    from hearken.models.support_desk import answer_pairs

    encode = encoder(model)
    for number, name in enumerate(PERSONAS):
        persona = Persona.load(ROOT / "hearken" / "personas" / f"{name}.json")
        draw = random.Random(f"{name} {seed}")
        pairs, right = [], []
        for question, first, second in answer_pairs(2 * (train + test), seed * 10 + number):
            worth = persona.utility(question, first), persona.utility(question, second)
            if worth[0] == worth[1]:
                continue
            a_wins = persona.prefer(*worth, draw) == "a"
            order = (first, second) if a_wins else (second, first)
            messages: Any = ({"role": "user", "content": question},)
            pairs.append([encode(messages, answer) for answer in order])
            right.append(float(a_wins == (worth[0] > worth[1])))
            if len(pairs) == train + test:
                break
        yield {"train": pairs[:train], "test": pairs[train:], "right": right[train:]}


def real(model: Path, file: Path) -> Iterator[dict[str, Any]]:
    """The folds of the real pairs."""
    from feedback.dialects import parse
    from hearken.data.importing import encoder

    encode = encoder(model)
    pairs = []
    for row in json.loads(file.read_text()):
        example = parse(row, "auto")
        pair = []
        for answer in example.answers if example.value > 0.5 else example.answers[::-1]:
            prompt, tokens = encode(example.messages, answer)
            prompt = prompt[-128:]
            pair.append((prompt, tokens[: 512 - len(prompt)]))
        pairs.append(pair)
    random.Random(0).shuffle(pairs)
    for fold in range(FOLDS):
        test = pairs[fold::FOLDS]
        train = [pair for i, pair in enumerate(pairs) if i % FOLDS != fold]
        yield {"train": train, "test": test, "right": [1.0] * len(test)}


def measure(
    model: Path, fits: list[dict[str, Any]], set_ups: Sequence[dict[str, Any]], threads: int, folder: Path
) -> dict[str, Any]:
    """Both sides' figures over all of `fits`, TRL's with the prefix trl_."""
    folder.mkdir()
    work = folder / "work.json"
    told = {"model": str(model), "threads": threads, "seed": 0, "fits": fits, "trl": set_ups}
    work.write_text(json.dumps(told))
    arguments = ["--work", str(work), "--out", str(folder)]
    run_side([sys.executable, "-m", "bench._hearken_reward", *arguments], threads)
    run_side([str(trl_python()), str(TRL_SIDE), *arguments], threads)
    ours, theirs = (json.loads((folder / f"{side}.json").read_text()) for side in ("hearken", "trl"))
    figures = [_figures(side, fits) for side in (ours, *theirs)]
    for name, found, all_fits in zip(
        ("hearken", *(f"TRL {set_up}" for set_up in set_ups)), figures, (ours, *theirs), strict=True
    ):
        each = ", ".join(f"{_accuracy(one, fit):.3f}" for one, fit in zip(all_fits, fits, strict=True))
        print(f"{name}: {found['seconds']:.1f} s, accuracy {found['accuracy']:.3f} ({each})", flush=True)
    best = max(figures[1:], key=lambda found: found["accuracy"])
    trl = {**best, "seconds": min(found["seconds"] for found in figures[1:])}
    return {**figures[0], **{f"trl_{name}": value for name, value in trl.items()}}


def _accuracy(found: dict[str, Any], fit: dict[str, Any]) -> float:
    both = zip(found["logits"], fit["right"], strict=True)
    agreed = sum(int((logit > 0) == (right > 0.5)) for logit, right in both)
    return agreed / len(fit["right"])


def _figures(found: list[dict[str, Any]], fits: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds, mean accuracy and calibration errors of one side."""
    import torch

    from learner.reward.calibration import calibration_error, held_out_error

    logits = torch.tensor([logit for each in found for logit in each["logits"]])
    won = torch.ones_like(logits)  # the first answer of a pair is the one that was preferred
    half = torch.arange(len(logits)) % 2 == 0
    return {
        "seconds": sum(each["seconds"] for each in found),
        "accuracy": sum(_accuracy(*both) for both in zip(found, fits, strict=True)) / len(fits),
        "ece": calibration_error(torch.sigmoid(logits), won),
        "scaled_ece": held_out_error(logits, won, won, half),
    }


def real_model(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    """Both sides on people's pairs with a real model as base, at several numbers of pairs to learn from."""
    from bench import _real_pairs
    from hearken.base.errors import UsageError
    from hearken.machine.engine import resolve_model

    if missing := [file for file in arguments.pairs if not file.is_file()]:
        parser.error(f"--pairs has {missing[0]}, which is no file")
    try:
        model = resolve_model(arguments.model)
    except UsageError as error:
        parser.error(str(error))
    pairs = _real_pairs.tokenised(model, arguments.pairs)
    if max(arguments.sizes) >= len(pairs):
        parser.error(
            f"--sizes has {max(arguments.sizes)}; there are {len(pairs)} pairs, and some are held back"
        )
    draws = [(size, draw) for size in arguments.sizes for draw in range(arguments.splits)]
    fits = [_real_pairs.split(pairs, size, arguments.test, draw) for size, draw in draws]
    slow = [i for i, (_, draw) in enumerate(draws) if draw < arguments.trl_splits]
    told = {"model": str(model), "threads": arguments.threads, "seed": arguments.seed, "bf16": True}
    with tempfile.TemporaryDirectory() as scratch:
        ours = _side("hearken", told | {"fits": fits, "ladder": True}, Path(scratch))
        work = told | {"fits": [fits[i] for i in slow], "trl": [TRL_REAL_MODEL]}
        theirs = dict(zip(slow, _side("trl", work, Path(scratch))[0], strict=True)) if slow else {}
    result: dict[str, float] = {}
    print(f"{'pairs':>6} {'':28} {'accuracy':>8} {'+-':>6} {'ece':>6} {'seconds':>8}")
    for size in arguments.sizes:
        rows = [i for i, (of, _) in enumerate(draws) if of == size]
        result |= _real_figures(size, fits, ours, theirs, rows)
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))
    return 0


def _side(name: str, work: dict[str, Any], folder: Path) -> Any:
    """What one side makes of a workload."""
    file, python = folder / f"{name}-work.json", sys.executable if name == "hearken" else str(trl_python())
    file.write_text(json.dumps(work))
    program = (
        ["-m", "bench._hearken_reward"] if name == "hearken" else [str(ROOT / "bench" / "_trl_reward.py")]
    )
    run_side([python, *program, "--work", str(file), "--out", str(folder)], work["threads"])
    return json.loads((folder / f"{name}.json").read_text())


def _real_figures(
    size: int, fits: list[Any], ours: list[Any], theirs: dict[int, Any], rows: list[int]
) -> dict[str, float]:
    """Print the rows of one size; the figures by name. `rows`: the splits of this size."""
    slow = [i for i in rows if i in theirs]
    sides = {"": [ours[i] for i in rows]}
    for name in ours[rows[0]]["rungs"]:
        sides[f"{name}_"] = [{**ours[i], "logits": ours[i]["rungs"][name]} for i in rows]
    places = dict.fromkeys(sides, rows)
    if slow:
        sides |= {"same_splits_": [ours[i] for i in slow], "trl_": [theirs[i] for i in slow]}
        places |= dict.fromkeys(("same_splits_", "trl_"), slow)
    result: dict[str, float] = {}
    for name, found in sides.items():
        held = [fits[i] for i in places[name]]
        figures = _figures(found, held)
        figures["seconds"] /= len(found)
        tested = {pair for fit in held for pair in fit["test_names"]}
        error = (figures["accuracy"] * (1 - figures["accuracy"]) / len(tested)) ** 0.5
        print(
            f"{size:6d} {name.strip('_') or 'hearken':28} {figures['accuracy']:8.3f} {error:6.3f} "
            f"{figures['ece']:6.3f} {figures['seconds']:8.1f}",
            flush=True,
        )
        result |= {f"real_{size}_{name}{key}": value for key, value in figures.items()}
    for judge in ("other_judge", "same_judge"):
        shared = [_shared_errors(ours[i]["halves"], judge) for i in rows]
        accuracy, correlation = (sum(column) / len(rows) for column in zip(*shared, strict=True))
        print(f"{size:6d} {judge:28} {accuracy:8.3f} errors' correlation {correlation:.3f}")
        result[f"real_{size}_{judge}_accuracy"] = accuracy
        result[f"real_{size}_{judge}_error_correlation"] = correlation
    return result


def _shared_errors(logits: dict[str, list[float]], judge: str) -> tuple[float, float]:
    """A judge's accuracy, and the correlation of its errors with those of what is climbed."""
    import torch

    wrong = (torch.tensor([logits["climbed"], logits[judge]]) <= 0).double()
    return float(1 - wrong[1].mean()), float(torch.corrcoef(wrong)[0, 1])


def main(argv: list[str]) -> int:
    """Run both sides on both kinds of pairs and print what came out."""
    parser = argparse.ArgumentParser(prog="python -m bench reward", description=__doc__)
    parser.add_argument("--train", type=int, default=500, help="simulated votes of each taste")
    parser.add_argument("--test", type=int, default=500, help="held-out votes of each taste, or of a split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--real", action="store_true", help="real pairs on a real model, and nothing else")
    parser.add_argument("--model", default="smollm2", help="with --real: the base, as `hearken up` takes it")
    parser.add_argument(
        "--pairs", type=Path, nargs="+", default=[REAL_PAIRS], help="with --real: their files"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[300, 900, 1200], help="pairs to learn from")
    parser.add_argument("--splits", type=int, default=8, help="with --real: random splits of each size")
    parser.add_argument(
        "--trl-splits", type=int, default=1, help="of these for TRL, which takes long; 0 for none"
    )
    arguments = parser.parse_args(argv)
    if arguments.real:
        return real_model(parser, arguments)

    from hearken.models.tiny import ensure_tiny

    model = ensure_tiny()
    with tempfile.TemporaryDirectory() as scratch:
        fits = [*simulated(model, arguments.train, arguments.test, arguments.seed)]
        result = measure(model, fits, TRL_SIMULATED, arguments.threads, Path(scratch) / "simulated")
        if REAL.exists():
            folds = [*real(model, REAL)]
            found = measure(model, folds, TRL_REAL, arguments.threads, Path(scratch) / "real")
            result |= {f"real_{name}": value for name, value in found.items()}
            result["real_speedup"] = found["trl_seconds"] / found["seconds"]
        else:
            print(f"the real pairs are left out: there is no file {REAL}")
    result["speedup"] = result["trl_seconds"] / result["seconds"]
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))
    return 0

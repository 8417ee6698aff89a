"""Our side of `python -m bench reward`: a reward model fitted to each data set's pairs."""

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

Pair = Sequence[tuple[list[int], list[int]]]  # token ids of prompt and answer, of the preferred answer first


def main() -> int:
    """Fit the data sets of the workload and write how long it took and what is foreseen of held-out pairs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True, help="JSON of the workload")
    parser.add_argument("--out", type=Path, required=True, help="folder for what was measured")
    arguments = parser.parse_args()
    work: dict[str, Any] = json.loads(arguments.work.read_text())

    import torch

    from learner.model.machine import keep_freed_memory
    from learner.model.shared import SharedModel
    from learner.reward.features import AnswerFeatures

    torch.set_num_threads(work["threads"])
    keep_freed_memory()
    if work.get("ladder"):
        features = AnswerFeatures(SharedModel(work["model"], device="cpu", dtype=torch.bfloat16))
        seconds = _seconds_to_read(features, work["fits"])
        fits = [_climb(features, fit, work["seed"], seconds) for fit in work["fits"]]
    else:
        model = SharedModel(work["model"], device="cpu")
        fits = [_fit(model, fit, work["seed"]) for fit in work["fits"]]
    (arguments.out / "hearken.json").write_text(json.dumps(fits))
    return 0


def _fit(model: Any, fit: dict[str, Any], seed: int) -> dict[str, Any]:
    """The features of the answers, the fit, and the logit of each held-out pair's first answer."""

    from learner.reward.features import AnswerFeatures
    from learner.reward.reward import RewardModel

    train, test = (
        [_label(pair, f"{part}-{i}") for i, pair in enumerate(fit[part])] for part in ("train", "test")
    )
    reward = RewardModel(AnswerFeatures(model), seed=seed)
    started = time.perf_counter()
    reward.update(train)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "logits": _logits(reward, test)}


def _seconds_to_read(features: Any, fits: Sequence[dict[str, Any]]) -> float:
    """Read all answers once, which later fits find remembered; the seconds that a token took."""
    from learner.reward.features import WORDS

    pairs = {
        name: pair
        for fit in fits
        for part in ("train", "test")
        for name, pair in zip(fit[f"{part}_names"], fit[part], strict=True)
    }
    answers = [answer for name, pair in pairs.items() for answer in _label(pair, name).answers]
    started = time.perf_counter()
    for start in range(0, len(answers), 256):
        features.of_answers(answers[start : start + 256], WORDS)
    return (time.perf_counter() - started) / _tokens(pairs.values())


def _tokens(pairs: Iterable[Pair]) -> int:
    return sum(len(prompt) + len(answer) for pair in pairs for prompt, answer in pair)


def _climb(features: Any, fit: dict[str, Any], seed: int, seconds_of_token: float) -> dict[str, Any]:
    """The ladder on pairs that come in three parts: each is foreseen before it is learned from, which says
    what serves and how sure it may be.

    Gives the logits of the held-out pairs by what serves, by every rung, and by models of half of the pairs:
    one that a policy might climb, and judges of the other kind and of the same kind on the other half.
    """
    from learner.reward.features import STATES, WORDS
    from learner.reward.ladder import RewardLadder
    from learner.reward.reward import RewardModel
    from learner.settings import RewardSettings

    train = [_label(pair, name) for pair, name in zip(fit["train"], fit["train_names"], strict=True)]
    test = [_label(pair, name) for pair, name in zip(fit["test"], fit["test_names"], strict=True)]
    settings = RewardSettings(rung_votes=len(train) // 4)
    ladder = RewardLadder(features, settings, seed=seed)
    started, ends = time.perf_counter(), [len(train) // 3, 2 * len(train) // 3, len(train)]
    for start, end in pairwise([0, *ends]):
        if start:
            ladder.foresee(train[start:end])
            ladder.calibrate(train[start:end])
        ladder.update(train[:end])
    seconds = time.perf_counter() - started + seconds_of_token * _tokens(fit["train"])
    half = len(train) // 2
    lessons = {"climbed": (STATES, train[:half])}
    lessons |= {"other_judge": (WORDS, train[half:]), "same_judge": (STATES, train[half:])}
    halves = {}
    for number, (name, (kind, votes)) in enumerate(lessons.items()):
        model = RewardModel(features, seed=seed + number, kind=kind)
        model.update(votes)
        halves[name] = _logits(model, test)
    return {
        "seconds": seconds,
        "logits": _logits(ladder, test),
        "serving": ladder.model.kind.name,
        "losses": ladder.mean_losses(),
        "rungs": {rung.kind.name: _logits(rung, test) for rung in ladder.rungs},
        "halves": halves,
    }


def _logits(model: Any, test: Sequence[Any]) -> list[float]:
    import torch

    return torch.logit(torch.tensor(model.predictions(test), dtype=torch.float64), eps=1e-9).tolist()


def _label(pair: Pair, name: str) -> Any:
    """A comparison that the first answer won, by a rater of its own."""
    from feedback.joining.labels import Answer, Label

    answers = tuple(
        Answer(
            completion_id=f"{name}-{side}",
            choice=0,
            user=name,
            policy_version="base",
            arm="base",
            role="answer",
            table_epoch=0,
            prompt_token_ids=tuple(prompt),
            token_ids=tuple(answer),
            text="",
            finish_reason="stop",
            at=0.0,
            ttft_seconds=None,
            latency_seconds=0.0,
            sampling_plain=True,
        )
        for side, (prompt, answer) in enumerate(pair)
    )
    return Label(
        event_id=name,
        revision=1,
        kind="comparison",
        rater=name,
        tenant="bench",
        at=0.0,
        value=1.0,
        label="a",
        source="end_user",
        answers=answers,
    )


if __name__ == "__main__":
    raise SystemExit(main())

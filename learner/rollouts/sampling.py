"""Fresh answers of a policy that is still being trained, sampled by the engine that also serves users."""

import contextlib
import dataclasses
import hashlib
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import orjson

from deploy.engines.client import EngineClient, EngineError, Sample
from deploy.engines.lending import Lend, as_it_is
from feedback.core.files import replace_durably


def is_held_out(prompt_token_ids: Sequence[int], share: float = 0.25) -> bool:
    """Whether a prompt is kept for the offline comparison: a stable split, by the prompt's hash."""
    text = " ".join(map(str, prompt_token_ids)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8]) < share * 2**64


def distinct_prompts(prompts: Iterable[tuple[int, ...]], *, held_out: bool) -> list[list[int]]:
    """The distinct prompts (token ids) of one side of the split, newest last."""
    newest_last = dict.fromkeys(reversed(list(prompts)))
    chosen = [list(prompt) for prompt in newest_last if prompt and is_held_out(prompt) == held_out]
    return chosen[::-1]


class RolloutSampler:
    """Samples with adapters that no user is ever routed to; their names say what they hold."""

    def __init__(self, engine: EngineClient, folder: Path, lend: Lend = as_it_is) -> None:
        self._engine = engine
        self._folder = folder
        self._lend = lend

    @contextmanager
    def serving(self, save: Callable[[Path], None], step: int) -> Iterator[str]:
        """Serve the adapter that `save` writes as a model of its own, for the length of the block.

        Raises `EngineError` when the engine refuses it, `EngineDown` when it or its files are away.
        """
        draft = self._folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        save(draft)
        digest = hashlib.sha256((draft / "adapter_model.safetensors").read_bytes()).hexdigest()
        name = f"rollout-{step}-{digest[:8]}"
        path = self._folder / name
        shutil.rmtree(path, ignore_errors=True)
        draft.rename(path)
        try:
            with self._lend(path) as seen:
                try:
                    if name not in self._engine.models():  # an earlier life may have loaded it
                        self._engine.load(name, seen)
                    yield name
                finally:
                    with contextlib.suppress(EngineError):  # one that went away has forgotten it already
                        self._engine.unload(name)
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def longest(self, max_tokens: int) -> int:
        """`max_tokens`, or half of the engine's context where that is less: prompts want room as well.

        Raises `EngineError`.
        """
        context = self._engine.context()
        return max_tokens if context is None else min(max_tokens, context // 2)

    def room(self, max_tokens: int) -> int:
        """Tokens that a prompt may have beside an answer of `max_tokens`. Raises `EngineError`.

        One is kept free: an engine that is asked for the logprobs of both makes one more.
        """
        context = self._engine.context()
        return sys.maxsize if context is None else context - max_tokens - 1

    def sample(self, model: str, prompts: list[list[int]], *, max_tokens: int, seed: str) -> list[Sample]:
        """One answer at temperature 1 to each prompt. `seed` names the batch: drawn again, it gives the same
        answers, as far as the engine's arithmetic is the same; each has noise of its own. Raises
        `PromptsRefused`, and `EngineError` when the engine cannot answer now."""
        numbers = [_number(f"{seed} {index}") for index in range(len(prompts))]
        return self._engine.sample(model, prompts, max_tokens=max_tokens, seeds=numbers)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


class Journal:
    """Sampled answers on disk, from when they are known until a checkpoint holds what was learned from them.

    An engine batches whatever comes at the same time, so the same question with the same seed may be answered
    differently in the last bits. A learner that was killed learns from the answers that it had.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def once(
        self, batch: str, prompts: Sequence[Sequence[int]], draw: Callable[[], list[Sample]]
    ) -> list[Sample]:
        """What `draw` gives, or gave before. `batch` says of which policy and for which purpose.

        Prompts are users' words: the file has their digest for a name and nothing else of them.
        """
        file = self._folder / f"{hashlib.sha256(orjson.dumps([batch, prompts])).hexdigest()}.json"
        if file.exists():
            rows = orjson.loads(file.read_bytes())
            return [Sample(list(prompt), **row) for prompt, row in zip(prompts, rows, strict=True)]
        samples = draw()
        rows = [dataclasses.asdict(sample) for sample in samples]
        for row in rows:
            del row["prompt_token_ids"]
        self._folder.mkdir(parents=True, exist_ok=True)
        replace_durably(file, orjson.dumps(rows))
        return samples

    def clear(self) -> None:
        """Forget all answers: a checkpoint holds what came of them."""
        shutil.rmtree(self._folder, ignore_errors=True)

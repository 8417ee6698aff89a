"""Features of answers for reward models: fixed ones from the frozen base, computed once per answer.

A kind of reward model sees some of them (`Kind`). Occurrence asks whether a token is said at all, so
that saying it again is worth nothing; the states of the base's layers carry what single tokens do not, their
context and order. All layers' states come from one pass through the base.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from feedback.joining.join import Answer
from learner.batching import Item, in_buckets
from learner.model.shared import SharedModel

CACHE_BYTES = 256 << 20
TOKEN_FEATURES = 4096  # a larger vocabulary is folded into so many
PREFIXES = 32
"""Of an answer that are looked at, at most: what its tokens add is told span by span."""

DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of the layers whose states are looked at, as shares of all."""

Key = str
Block = Literal["tokens", "length", "middle", "means", "lasts", "reader"]
DENSE: tuple[Block, ...] = ("length", "middle", "means", "lasts")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a reward model looks at, and what each block of features can do a priori, in logits.

    tokens: which ones occur; length: its logarithm; middle: the sum of the answer's states in the middle
    layer; means, lasts: their mean and the last one, in each of `DEPTHS`; reader: the score by
    `learner.reward.reader`. A token's occurrence is worth 0 or its gain; each other block as a whole varies
    by its gain.
    """

    name: str
    gains: Mapping[Block, float]


WORDS = Kind("words", {"tokens": 0.25, "length": 0.2, "middle": 0.5})
STATES = Kind("states", {"length": 0.2, "means": 1.0, "lasts": 1.0})
READ = Kind("reader", {**STATES.gains, "reader": 1.0})


def prefix_ends(tokens: int) -> list[int]:
    """The lengths of an answer's prefixes that are looked at, rising evenly to all of its `tokens`."""
    count = min(tokens, PREFIXES)
    return [round(number * tokens / count) for number in range(1, count + 1)] or [0]


def key_of(answer: Answer) -> Key:
    """What tells one answer from others, as a digest. A correction has its original's completion id, not its
    tokens."""
    text = f"{answer.completion_id} {answer.choice} {answer.token_ids}"
    return hashlib.sha256(text.encode()).hexdigest()


class AnswerFeatures:
    """Features of answers, of which every kind of reward model takes its blocks.

    reader: scores (prompt, answer) pairs; `forget_scores` is to be told when it has learned. layers: how many
    of the base's come before each of the states that are looked at.
    """

    def __init__(self, model: SharedModel, reader: Callable[[Sequence[Item]], Tensor] | None = None) -> None:
        self._model, self._reader = model, reader
        self._scores: dict[Key, Tensor] = {}  # the reader's
        inner = range(1, max(model.layers, 2))  # what comes after the last layer's norm is left out
        wanted = {min(max(round(depth * model.layers), 1), inner[-1]) for depth in DEPTHS}
        self.layers = sorted(wanted | {max(model.layers // 2, 1)})
        self._middle = self.layers.index(max(model.layers // 2, 1))
        states = len(self.layers) * model.hidden_size
        self._widths: dict[Block, int] = {
            "tokens": min(model.vocab_size, TOKEN_FEATURES),
            "length": 1,
            "middle": model.hidden_size,
            "means": states,
            "lasts": states,
            "reader": 1,
        }
        self._dense, end = {}, 0  # where a block of what the base computes is in what is remembered
        for name in DENSE:
            self._dense[name] = slice(end, end + self._widths[name])
            end += self._widths[name]
        self._dense_width = end
        self._cache: OrderedDict[Key, Tensor] = OrderedDict()  # what takes a pass through the model: (D,)
        self._saved: set[Key] = set()  # of these, as of the last `changes`
        self._cache_size = CACHE_BYTES // (2 * self._dense_width)
        self._shown: dict[tuple[tuple[int, ...], ...], Tensor] = {}  # (P, D) of an item's prefixes

    def columns(self, kind: Kind) -> dict[Block, slice]:
        """Where each block of a kind's features is."""
        ends = [0]
        for name in kind.gains:
            ends.append(ends[-1] + self._widths[name])
        return {name: slice(*ends_) for name, ends_ in zip(kind.gains, pairwise(ends), strict=True)}

    def of_items(self, items: Sequence[Item], kind: Kind) -> Tensor:
        """The features (B, F) of (prompt, answer) pairs, on the CPU."""
        scores = self._reader(items) if self._reader and "reader" in kind.gains else None
        shown = [self._shown.get(_of(item)) for item in items]
        new = [row for row, prefixes in enumerate(shown) if prefixes is None]
        dense = torch.zeros(len(items), self._dense_width, dtype=torch.float16)
        dense[new] = self._states_of([items[row] for row in new], self._depth(kind))
        for row, prefixes in enumerate(shown):
            if prefixes is not None:
                dense[row] = prefixes[-1]
        return self._chosen([answer for _, answer in items], dense, scores, kind)

    def _depth(self, kind: Kind) -> int:
        """How many of the layers that are looked at the base has to be passed through for a kind."""
        if "means" in kind.gains or "lasts" in kind.gains:
            return len(self.layers)
        return self._middle + 1 if "middle" in kind.gains else 0

    def of_prefixes(self, items: Sequence[Item], kind: Kind) -> Iterator[tuple[int, Tensor]]:
        """Each (prompt, answer) pair's place, and the features (P, F) of the answer's prefixes, on the CPU.

        They end at `prefix_ends`; the last one is the whole answer, with the features that `of_items` gives
        it. All of them come from one pass. Raises `ValueError` for a kind that looks at what the reader says,
        who reads whole answers.
        """
        if "reader" in kind.gains:
            raise ValueError(f"{kind.name} looks at what the reader says, and that is of whole answers")
        new = []
        for row, item in enumerate(items):
            if (prefixes := self._shown.get(_of(item))) is None:
                new.append(row)
            else:
                yield row, self._chosen_of_prefixes(item[1], prefixes, kind)
        layers = self.layers[: self._depth(kind)] or self.layers[:1]
        unread = [items[row] for row in new]
        for rows, batch in in_buckets(unread, self._model.max_tokens, self._model.device):
            states = self._model.layer_states(batch, layers, batch.answers).float().cpu()
            parts = torch.split(states, batch.mask.sum(1).tolist(), 1)
            for row, part in zip(rows, parts, strict=True):
                yield new[row], self._chosen_of_prefixes(unread[row][1], self._prefixed(part), kind)

    def _chosen_of_prefixes(self, answer: Sequence[int], dense: Tensor, kind: Kind) -> Tensor:
        return self._chosen([answer[:end] for end in prefix_ends(len(answer))], dense, None, kind)

    def show(self, item: Item, states: Tensor) -> None:
        """Take the features of a (prompt, answer) pair from what a pass of the base gave: the states
        (L, N, H) of the answer's N tokens after `layers`. They are at hand until `forget_shown`."""
        self._shown[_of(item)] = self._prefixed(states.float().cpu())

    def at_hand(self, items: Sequence[Item]) -> list[Item]:
        """Those (prompt, answer) pairs that were shown: all of a batch, or one rank's share of it."""
        return [item for item in items if _of(item) in self._shown]

    def forget_shown(self) -> None:
        """Forget what was shown."""
        self._shown.clear()

    def _prefixed(self, states: Tensor) -> Tensor:
        """The blocks `DENSE` (P, D) of an answer's prefixes, which end at `prefix_ends`. states: (L, N, H).

        The last one is the whole answer, in the very bits that it has by itself.
        """
        count = states.shape[1]
        ends = torch.tensor(prefix_ends(count))
        dense = torch.zeros(len(ends), self._dense_width, dtype=torch.float16)
        if count:
            blocks = self._blocks(states.cumsum(1)[:, ends - 1], states[:, ends - 1], ends)
            self._put(dense, {"length": _log_lengths(ends), **blocks})
            self._put(dense[-1:], self._pool(states, torch.tensor([count])))
        return dense

    def knows(self, answer: Answer) -> bool:
        """Whether the base has read a voted answer, and that is remembered."""
        return key_of(answer) in self._cache

    def read(self, answers: Sequence[Answer]) -> list[Key]:
        """Let the base read those answers that it has not read yet; gives the keys of all."""
        keys = [key_of(answer) for answer in answers]
        missing = {k: a for k, a in zip(keys, answers, strict=True) if k not in self._cache}
        if missing:
            found = self._states_of([answer.judged for answer in missing.values()], len(self.layers))
            self._cache.update(zip(missing, found, strict=True))
        return keys

    def of_answers(self, answers: Sequence[Answer], kind: Kind) -> Tensor:
        """The features (B, F) of voted answers, which are computed once and then remembered for a while."""
        keys = self.read(answers)
        dense = torch.stack([self._cache[key] for key in keys])
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        scores = self._scores_of(answers, keys) if "reader" in kind.gains else None
        return self._chosen([answer.judged[1] for answer in answers], dense, scores, kind)

    def _scores_of(self, answers: Sequence[Answer], keys: Sequence[Key]) -> Tensor:
        assert self._reader is not None
        missing = {k: a for k, a in zip(keys, answers, strict=True) if k not in self._scores}
        if missing:
            found = self._reader([answer.judged for answer in missing.values()])
            self._scores.update(zip(missing, found, strict=True))
        return torch.stack([self._scores[key] for key in keys])

    def _chosen(
        self, answers: Sequence[Sequence[int]], dense: Tensor, scores: Tensor | None, kind: Kind
    ) -> Tensor:
        parts: list[Tensor] = []
        for name in kind.gains:
            if name == "tokens":
                parts.append(_occurrence(answers, self._widths[name]))
            elif name == "reader":
                assert scores is not None
                parts.append(scores[:, None])
            else:
                parts.append(dense[:, self._dense[name]].float())
        return torch.cat(parts, 1)

    @torch.no_grad()
    def _states_of(self, items: Sequence[Item], depth: int) -> Tensor:
        """The blocks `DENSE` of (prompt, answer) pairs, (B, D), in half precision: checkpoints hold many.

        depth: of so many layers; the blocks that need more are 0.
        """
        out = torch.zeros(len(items), self._dense_width, dtype=torch.float16)
        self._put(out, {"length": _log_lengths(torch.tensor([len(answer) for _, answer in items]))})
        if not depth:
            return out
        for rows, batch in in_buckets(items, self._model.max_tokens, self._model.device):
            states = self._model.layer_states(batch, self.layers[:depth], batch.answers).float()
            part = out[rows]
            self._put(part, self._pool(states, batch.mask.sum(1)))
            out[rows] = part
        return out

    def _put(self, out: Tensor, blocks: Mapping[Block, Tensor]) -> None:
        """Write blocks (B, width) into what is remembered (B, D)."""
        most = torch.finfo(out.dtype).max  # some models have a state or two beyond
        for name, found in blocks.items():
            out[:, self._dense[name]] = found.clamp(-most, most).to(out)

    def _pool(self, states: Tensor, counts: Tensor) -> dict[Block, Tensor]:
        """The blocks that states (L, N, H) of answers of `counts` (B,) tokens give."""
        layers, _, hidden = states.shape
        rows = torch.arange(len(counts), device=states.device).repeat_interleave(counts)
        sums = states.new_zeros(layers, len(counts), hidden).index_add(1, rows, states)
        ends = (counts.cumsum(0) - 1).clamp(min=0)
        lasts = torch.where((counts > 0)[:, None], states[:, ends], 0.0) if len(rows) else sums
        return self._blocks(sums, lasts, counts)

    def _blocks(self, sums: Tensor, lasts: Tensor, counts: Tensor) -> dict[Block, Tensor]:
        """The blocks (B, width) that sums of states and the last ones, (L, B, H) each, give over `counts`
        (B,) tokens, as far as there are layers enough."""
        found: dict[Block, Tensor] = {}
        if len(sums) > self._middle:
            found["middle"] = sums[self._middle]
        if len(sums) == len(self.layers):
            means = sums / counts.clamp(min=1)[:, None]
            found |= {"means": means.transpose(0, 1).flatten(1), "lasts": lasts.transpose(0, 1).flatten(1)}
        return found

    def state(self) -> dict[str, Any]:
        """What is remembered. A pass gives an answer other last bits in other company, so a learner that goes
        on from a checkpoint must not compute anew what it knew."""
        return {
            "keys": list(self._cache),
            "dense": torch.stack([*self._cache.values()]) if self._cache else None,
            **self.scores_state(),
        }

    def scores_state(self) -> dict[str, Any]:
        """What the reader said: the part of `state()` that changes as a whole."""
        return {
            "scored": list(self._scores),
            "scores": torch.stack([*self._scores.values()]) if self._scores else None,
        }

    def changes(self) -> tuple[dict[Key, Tensor], set[Key]]:
        """What is remembered since the last call, (D,) by key in order, and what is not any more."""
        new = {key: row for key, row in self._cache.items() if key not in self._saved}
        gone = self._saved - self._cache.keys()
        self._saved = set(self._cache)
        return new, gone

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what `state()` described; what is of another shape is forgotten, and computed again."""
        rows = state["dense"]
        if rows is None or rows.shape[1] != self._dense_width or rows.dtype != torch.float16:
            self.forget()
            return
        self._cache = OrderedDict(zip(state["keys"], rows, strict=True))
        self._saved.clear()
        self._restore_scores(state)

    def restore_rows(self, rows: Iterable[tuple[Key, Tensor]], scores: Mapping[str, Any]) -> None:
        """The same from the rows (D,) of a file, in order, and from `scores_state()`."""
        self._cache = OrderedDict(rows)
        self._saved = set(self._cache)
        if any(len(row) != self._dense_width for row in self._cache.values()):
            self.forget()
            return
        self._restore_scores(scores)

    def _restore_scores(self, state: Mapping[str, Any]) -> None:
        if "scored" not in state:  # of a checkpoint of before
            self._scores = dict(state["scores"])
        elif state["scores"] is not None:
            self._scores = dict(zip(state["scored"], state["scores"], strict=True))
        else:
            self._scores = {}

    def forget(self) -> None:
        """Remember nothing: somebody's words are to leave no trace."""
        self._cache.clear()
        self._shown.clear()
        self._scores.clear()

    def forget_scores(self) -> None:
        """Forget what the reader said: it would say something else now."""
        self._scores.clear()


def _of(item: Item) -> tuple[tuple[int, ...], ...]:
    """What tells a (prompt, answer) pair from others."""
    return tuple(item[0]), tuple(item[1])


def _log_lengths(counts: Tensor) -> Tensor:
    """The block `length` (B, 1) of answers of so many tokens (B,)."""
    return counts.log1p()[:, None]


def _occurrence(answers: Sequence[Sequence[int]], width: int) -> Tensor:
    out = torch.zeros(len(answers), width)
    for row, answer in enumerate(answers):
        out[row, [token % width for token in answer]] = 1.0
    return out

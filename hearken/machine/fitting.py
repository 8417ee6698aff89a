"""Whether a model fits this machine, and what each process gets of its GPUs: asked before anything is loaded.

`decide` is a pure function of what is to run and of the machine; `fit` looks at both, and refuses or warns.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hearken.base.errors import UsageError
from hearken.machine import hardware
from hearken.machine import memory as planning
from hearken.machine.loads import engine_load, learner_load
from hearken.machine.memory import GIB, MIB, EngineLoad, LearnerLoad, Need, total
from hearken.models import vllm_flags
from hearken.models.shape import Shape, read_config, shape_of
from hearken.settings import MemoryCheck
from learner.model.machine import has_fast_bf16
from learner.settings import LearnerSettings

VLLM_SHARE = 0.92
"""What vLLM 0.32 takes of a GPU unless told otherwise."""

SPARE_SHARE = 0.03
"""What nobody is given of a GPU: allocators round up, and a screen may hang on it."""

SERVICE_BYTES = 400 * MIB
"""RAM of gateway and controller together."""


@dataclass(frozen=True, slots=True)
class Machine:
    """GPUs (bytes of each) and RAM in all and as is free now (bytes, None where it is not known).

    learner_on_card: whether a learner's torch would use a GPU; native: whether it has compiled blocks.
    """

    cards: tuple[int, ...] = ()
    ram: int | None = None
    free_ram: int | None = None
    learner_on_card: bool = False
    native: bool = False

    @classmethod
    def here(cls) -> "Machine":
        """This machine."""
        cards = tuple(hardware.card_bytes())
        on_card = bool(cards) and hardware.torch_has_cuda()
        return cls(cards, hardware.ram_bytes(), hardware.free_ram_bytes(), on_card, has_fast_bf16())


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to run: `engines` of one kind, if any, and a learner.

    share: what the user wants vLLM to take of its GPU; None for nothing said.
    """

    name: str
    shape: Shape
    learner: LearnerLoad
    engine: EngineLoad | None = None
    engines: int = 1
    engine_on_card: bool = False
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """Who is on which GPU.

    engine_share: what the engine with which the learner shares a GPU is to take of it; None where they share
    none. learner_card: the number of the GPU that is the learner's alone; None where it has none. context:
    what bounds the engines' context, in tokens, because more would not fit; None where nothing does.
    """

    engine_share: float | None = None
    learner_card: int | None = None
    context: int | None = None


APART = Layout()
"""Engine and learner have nothing to share, or nobody planned what they do."""


class TooLittle(Exception):
    """What is planned is more than the machine has; the message says how much, and what would help."""


# ---- deciding


def decide(wish: Wish, machine: Machine) -> Layout:
    """Who gets which GPU, and how much of it. Raises TooLittle when something would not fit."""
    if wish.engine is not None and not wish.engine_on_card:
        _check_cache(wish, wish.engine)
    if not fits_in_ram(wish, machine, machine.ram):
        raise TooLittle(_sentence(wish, ram_needs(wish, machine), machine.ram or 0, "this machine has"))
    if not machine.cards:
        return APART
    if wish.engine is None or not wish.engine_on_card:
        if machine.learner_on_card:
            learner = planning.learner_on_card(wish.shape, wish.learner)
            _check_card(wish, {"learner": learner}, machine.cards[0])
        return APART
    card = machine.cards[0]
    engine = planning.engine_on_card(wish.shape, wish.engine, card)
    if not machine.learner_on_card:
        _check_card(wish, {"engine": engine}, card, wish.share or VLLM_SHARE)
        return APART
    learner = planning.learner_on_card(wish.shape, wish.learner)
    last = len(machine.cards) - 1
    if len(machine.cards) > wish.engines * wish.engine.cards:
        _check_card(wish, {"engine": engine}, card, wish.share or VLLM_SHARE)
        _check_card(wish, {"learner": learner}, machine.cards[last])
        return Layout(learner_card=last)
    # The learner gets what it needs, and vLLM the rest, which becomes KV cache.
    left = 1 - SPARE_SHARE - total(learner) / card
    share = wish.share or math.floor(100 * min(left, VLLM_SHARE)) / 100
    if share > left or share * card < total(engine):
        raise TooLittle(_sentence(wish, {"engine": engine, "learner": learner}, card, "this card has"))
    return Layout(engine_share=share)


def _check_card(wish: Wish, needs: Mapping[str, Need], card: int, share: float = 1 - SPARE_SHARE) -> None:
    if sum(map(total, needs.values())) > share * card:
        raise TooLittle(_sentence(wish, needs, card, f"of this card {share:.0%} may be used, and it has"))


def ram_needs(wish: Wish, machine: Machine) -> dict[str, Need]:
    """Of what runs on the CPU. What processes on a GPU take of the RAM beside it is not planned."""
    needs: dict[str, Need] = {}
    if wish.engine is not None:
        needs["gateway and controller"] = {"processes": SERVICE_BYTES}
    if wish.engine is not None and not wish.engine_on_card:
        one = planning.engine_in_ram(wish.shape, wish.engine)
        needs[_counted("engine", wish.engines)] = {part: wish.engines * size for part, size in one.items()}
    if not machine.learner_on_card:
        needs["learner"] = planning.learner_in_ram(wish.shape, wish.learner)
    return needs


def fits_in_ram(wish: Wish, machine: Machine, ram: int | None) -> bool:
    """Whether so much RAM is enough; where it is not known, it is taken to be."""
    return ram is None or sum(map(total, ram_needs(wish, machine).values())) <= ram


def _check_cache(wish: Wish, engine: EngineLoad) -> None:
    """On a CPU the KV cache is as large as it was told to be, and vLLM ends if one chat does not fit."""
    one = planning.kv_cache_bytes(wish.shape, engine)
    if one > engine.kv_cache_bytes:
        fits = engine.context * engine.kv_cache_bytes // one // 64 * 64
        raise TooLittle(
            f"a chat of {engine.context:,} tokens with {wish.name} takes {_gib(one)} of KV cache, and a CPU "
            f'engine has {_gib(engine.kv_cache_bytes)}; pass --engine-flags "--max-model-len {fits}"'
        )


# ---- saying it


def _sentence(wish: Wish, needs: Mapping[str, Need], has: int, had: str) -> str:
    """What is needed, what there is, and what would need less."""
    load = wish.engine or wish.learner
    arithmetic = {4: "float32", 2: "bfloat16"}[load.weight_bytes]
    if "learner" in needs and wish.learner.base_bits < 16:
        arithmetic += f" (the learner's base in {wish.learner.base_bits} bits)"
    each = ", ".join(f"{name} {_gib(total(need))}" for name, need in needs.items())
    return (
        f"{wish.name} in {arithmetic} with {load.context:,} tokens of context needs about "
        f"{_gib(sum(map(total, needs.values())))} ({each}); {had} {_gib(has)}; "
        f"what would need less: {', '.join(_remedies(wish, needs, has))}"
    )


def _remedies(wish: Wish, needs: Mapping[str, Need], has: int) -> list[str]:
    """What saves more than a little, the most first, and a smaller model, which always does."""
    learner = needs.get("learner", {})
    engine = next((need for name, need in needs.items() if "engine" in name), {})
    activations = learner.get("activations", 0)
    rows = activations // 2 if wish.learner.context > wish.learner.update_tokens else 0
    saved = {
        'a shorter context (--engine-flags "--max-model-len N")': engine.get("KV cache", 0) // 2 + rows,
        'fewer adapters at a time (--engine-flags "--max-loras 1")': engine.get("adapters", 0) // 2,
        "a base in 4 bits for the learner (--set learner.base_bits=4)": _saved_by_4_bits(wish, learner),
    }
    if wish.engine_on_card or "CUDA" in learner:
        saved |= {
            "activation checkpointing (--set learner.recompute=true)": 0
            if wish.learner.recompute
            else activations * 3 // 4,
            "a second GPU, which the learner then has for itself": total(learner) if engine else 0,
        }
    worth = sorted((what for what in saved if saved[what] > has // 50), key=lambda what: -saved[what])
    return [*worth, "a smaller model"]


def _saved_by_4_bits(wish: Wish, learner: Need) -> int:
    """Nothing where there is no learner, and where its base is in so few already."""
    if not learner or wish.learner.base_bits == 4:
        return 0
    blocks = "packed" if wish.learner.blocks == "native" else wish.learner.blocks
    load = replace(wish.learner, base_bits=4, blocks=blocks)
    planned = planning.learner_on_card if "CUDA" in learner else planning.learner_in_ram
    return total(learner) - total(planned(wish.shape, load))


def _counted(what: str, count: int) -> str:
    return what if count == 1 else f"{count} {what}s"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


# ---- looking


def fit(
    model: Path,
    commands: Sequence[Sequence[str]],
    learner: LearnerSettings,
    *,
    cuda: bool,
    kv_cache_gib: int,
    check: MemoryCheck,
    say: Callable[[str], None],
    machine: Machine,
) -> Layout:
    """Lay out the engines that `commands` would start, and a learner, on a machine.

    Raises UsageError (exit code 2) when they do not fit and `check` is "refuse".
    """
    try:
        shape, config = shape_of(model), read_config(model)
    except UsageError as unknown:
        _tell(check, say, f"memory is not planned: {unknown}")
        return APART
    engine = engine_load(commands[0], config, cuda=cuda, kv_cache_gib=kv_cache_gib)
    on_card = machine.learner_on_card
    wish = Wish(
        name=model.name,
        shape=shape,
        learner=learner_load(learner, shape, engine.context, on_card=on_card, native=machine.native),
        engine=engine,
        engines=len(commands),
        engine_on_card=cuda,
        share=vllm_flags.fraction(commands[0], "--gpu-memory-utilization"),
    )
    return _checked(wish, machine, check, say)


def fit_learner(
    model: Path,
    learner: LearnerSettings,
    context: int,
    *,
    check: MemoryCheck,
    say: Callable[[str], None],
    machine: Machine | None = None,
) -> None:
    """Whether a learner alone fits this machine. Raises UsageError when not and `check` is "refuse"."""
    machine = machine or Machine.here()
    try:
        shape = shape_of(model)
    except UsageError as unknown:
        _tell(check, say, f"memory is not planned: {unknown}")
        return
    load = learner_load(learner, shape, context, on_card=machine.learner_on_card, native=machine.native)
    _checked(Wish(model.name, shape, load), machine, check, say)


def _checked(wish: Wish, machine: Machine, check: MemoryCheck, say: Callable[[str], None]) -> Layout:
    if fits_in_ram(wish, machine, machine.ram) and not fits_in_ram(wish, machine, machine.free_ram):
        _tell(
            check, say, _sentence(wish, ram_needs(wish, machine), machine.free_ram or 0, "only free now is")
        )
    try:
        return decide(wish, machine)
    except TooLittle as problem:
        if check == "refuse":
            raise UsageError(f"{problem} (--memory-check warn starts all the same)") from problem
        _tell(check, say, str(problem))
        return APART


def _tell(check: MemoryCheck, say: Callable[[str], None], text: str) -> None:
    if check != "off":
        say(f"warning: {text}")

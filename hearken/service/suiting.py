"""What `hearken up` is told, made to suit the model and the machine before anything is started."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hearken.base.errors import UsageError
from hearken.config.follow import GPU_CONTEXT, follow
from hearken.config.layers import Given
from hearken.config.resolve import Config
from hearken.machine import engine, fitting
from hearken.machine.fitting import Layout, Machine
from hearken.models.checks import check_base_bits, check_context
from hearken.service.plan import UpSettings
from hearken.settings import MemoryCheck

Say = Callable[[str], None]

CONTEXTS = (GPU_CONTEXT, 16_384, 8192, 4096)
"""Tokens. What engines on a GPU hold where nobody says otherwise: the first that fits."""


def lay_out(
    settings: UpSettings, model: Path, cuda: bool, say: Say, machine: Machine | None = None
) -> Layout:
    """Who gets what of the GPUs. `machine` None: this one.

    Raises UsageError when the context is longer than the model's, or the memory does not suffice.
    """
    machine = machine or Machine.here()
    config, check = settings.config, settings.service.memory_check
    told = ("engine.max_model_len", "engine.longest_context")
    is_open = cuda and check != "off" and not any(config.asked(path) for path in told)
    bounds: tuple[int | None, ...] = CONTEXTS if is_open else (None,)
    bound = next((each for each in bounds[:-1] if _fits(settings, model, cuda, each, machine)), bounds[-1])
    if bound != bounds[0]:
        say(f"chats may have {bound:,} tokens: no more fits (engine.max_model_len in hearken.toml)")
    return _lay_out(settings, model, cuda, bound, check, say, machine)


def _fits(settings: UpSettings, model: Path, cuda: bool, context: int | None, machine: Machine) -> bool:
    try:
        _lay_out(settings, model, cuda, context, "refuse", lambda _: None, machine)
    except UsageError:
        return False
    return True


def _lay_out(
    settings: UpSettings,
    model: Path,
    cuda: bool,
    context: int | None,
    check: MemoryCheck,
    say: Say,
    machine: Machine,
) -> Layout:
    config = followed(settings, model, cuda, context)
    asked = config.build("engine")
    options = [engine.options(asked, model, port, cuda) for port in settings.engine_ports]
    commands = [engine.engine_command(each) for each in options]
    check_context(model, commands[0])
    learner = config.over({"learner.model": Given(str(model), "hearken up")}).build("learner")
    check_base_bits(model, learner.base_bits, learner.products, on_card=machine.learner_on_card)
    layout = fitting.fit(
        model,
        commands,
        learner,
        cuda=cuda,
        kv_cache_gib=options[0].kv_cache_gib,
        check=check,
        say=say,
        machine=machine,
    )
    return replace(layout, context=context)


def followed(settings: UpSettings, model: Path, cuda: bool, context: int | None) -> Config:
    """The settings that hold for a model, with a bound for the engines' context if there is one."""
    bound = {} if context is None else {"engine.longest_context": Given(context, "what fits the GPU")}
    return follow(settings.config.over(bound), model, cuda)

"""Flags of the command line: each is a setting under a short name.

A command has a table of flag -> place in hearken.toml; type, choices, default and help come from the setting.
Every other setting can be given as `--set TABLE.NAME=VALUE`.
"""

import argparse
import shlex
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from hearken.base.errors import UsageError
from hearken.config.assemble import assemble
from hearken.config.fields import NEEDED, Leaf, without_none
from hearken.config.layers import Given, Layer
from hearken.config.names import nearest
from hearken.config.resolve import Config
from hearken.config.tables import tables
from hearken.config.values import from_text, write

Flags = Mapping[str, str]
"""Flag -> place of the setting: {"--port": "gateway.port"}."""

SERVICE: Flags = {"--data": "service.data", "--kafka": "service.kafka"}

_LIMITS = "gateway.limits"
_WORDS = "engine.flags"


def add(command: argparse.ArgumentParser, flags: Flags) -> None:
    """Give a command its flags, and those that say where all others are."""
    text = "file of settings; without it $HEARKEN_CONFIG, else hearken.toml here, if there is one"
    command.add_argument("--config", type=Path, default=None, metavar="FILE", help=text)
    text = "any setting by its place in that file, such as learner.ppo.clip=0.3; may be given several times"
    command.add_argument("--set", action="append", default=[], metavar="TABLE.NAME=VALUE", help=text)
    for name, path in flags.items():
        _add(command, name, path)


def _add(command: argparse.ArgumentParser, name: str, path: str) -> None:
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": _dest(name)}
    if path == _LIMITS:
        from serve.auth.limits import NAMES

        text = f"limit of keys that have none of their own: NAME is one of {', '.join(NAMES)}; 0: no limit"
        command.add_argument(name, action="append", metavar="NAME=N", help=_several(text), **options)
        return
    leaf = tables().leaves[path]
    kind = without_none(leaf.setting.kind)
    text = leaf.setting.doc.replace("%", "%%")
    if path == _WORDS:
        command.add_argument(name, type=_words, metavar="FLAGS", help=f"{text}; in one string", **options)
    elif typing.get_origin(kind) is tuple:
        command.add_argument(
            name, action="append", metavar=_dest(name).upper(), help=_several(text), **options
        )
    elif kind is bool:
        command.add_argument(name, action="store_true", help=text, **options)
    else:
        choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else None
        options |= {"choices": choices, "metavar": None if choices else _dest(name).upper()}
        shown = text + _default(leaf)
        command.add_argument(name, type=_converter(leaf.setting.kind), help=shown, **options)


def _several(text: str) -> str:
    return f"{text}; may be given several times"


def _default(leaf: Leaf) -> str:
    return "" if leaf.default is NEEDED or leaf.default is None else f" (default: {leaf.default})"


def _dest(name: str) -> str:
    return name.removeprefix("--").replace("-", "_")


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _converter(kind: Any) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return from_text(text, kind)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def given(arguments: argparse.Namespace, flags: Flags) -> Layer:
    """What the flags said. Raises UsageError for a limit or a --set that is none."""
    found: dict[str, Given] = {}
    for text in arguments.set:
        path, value = _setting(text)
        found[path] = Given(value, f"--set {path}")
    for name, path in flags.items():
        if not hasattr(arguments, _dest(name)):
            continue
        value = getattr(arguments, _dest(name))
        if path == _LIMITS:
            found |= _limits(value)
        else:
            found[path] = Given(tuple(value) if isinstance(value, list) else value, name)
    return found


def _setting(text: str) -> tuple[str, Any]:
    path, equals, value = text.partition("=")
    leaves = tables().leaves
    if not equals or path not in leaves:
        raise UsageError(f"--set {text}: write TABLE.NAME=VALUE{nearest(path, leaves)}")
    try:
        return path, from_text(value, leaves[path].setting.kind)
    except ValueError as error:
        raise UsageError(f"--set {path} {error}") from error


def _limits(texts: list[str]) -> Layer:
    from serve.auth.limits import parse_limits

    try:
        limits = parse_limits(texts).given()
    except ValueError as error:
        raise UsageError(f"--limit: {error}") from error
    return {f"{_LIMITS}.{name}": Given(number, "--limit") for name, number in limits.items()}


def configured(arguments: argparse.Namespace, flags: Flags) -> Config:
    """The settings that hold for a command. Raises UsageError."""
    return assemble([given(arguments, flags)], arguments.config)


def written(layer: Mapping[str, Any]) -> list[str]:
    """Settings as arguments of another hearken process: ["--set", "gateway.port=8000", ...]."""
    return [word for path, value in layer.items() for word in ("--set", f"{path}={write(value)}")]

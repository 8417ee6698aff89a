"""Modules and classes of somebody's own, by their import path: "package.module:Class"."""

import importlib
import inspect
import re
from collections.abc import Callable
from types import ModuleType

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_path(name: str) -> bool:
    """Whether a name is written like an import path."""
    return _PATH.fullmatch(name) is not None


def find_module(name: str) -> ModuleType:
    """The module of a name. Raises `ValueError`, which says what is right, and begins with the name."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a module of somebody else's: whatever it raises
        what = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(
            f"{name} cannot be imported ({what}); it must be a module that this Python finds: install it, or "
            "name its folder in PYTHONPATH"
        ) from error


def find_class(setting: str, name: str, path: str, base: Callable[[], type]) -> type:
    """The subclass of `base()` that a path names. Raises `ValueError`, with one line that says what is right.

    setting, name: what was set, and how it was said there. base: called once the module is there, as finding
    the base may import what is slow.
    """
    module_name, _, class_name = path.partition(":")
    try:
        module = find_module(module_name)
    except ValueError as error:
        raise ValueError(f"{setting} is {name!r}, and {error}") from error
    kind, found = base(), getattr(module, class_name, None)
    if not (inspect.isclass(found) and issubclass(found, kind)):
        others = [
            each
            for each, there in vars(module).items()
            if inspect.isclass(there) and issubclass(there, kind) and there.__module__ == module_name
        ]
        known = f"those there are {', '.join(others)}" if others else f"{module_name} has none"
        raise ValueError(
            f"{setting} is {name!r}, and {class_name} is no subclass of {kind.__module__}."
            f"{kind.__qualname__} there; {known}"
        )
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        raise ValueError(f"{setting} is {name!r}, and {class_name} must define {', '.join(missing)}")
    return found

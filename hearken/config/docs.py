"""docs/settings.md, made of the settings classes."""

from collections.abc import Iterator
from typing import Any

from hearken.base.paces import PACES
from hearken.config.fields import NEEDED, settings_of
from hearken.config.tables import Tables
from hearken.config.values import describe, write

HEAD = """# Settings

Made by `hearken config docs` from the settings classes; a test holds it against them.

Everything that can be set is in one file, `hearken.toml`, for all roles: `--config FILE`, else
`$HEARKEN_CONFIG`, else `hearken.toml` in the folder where the command runs; none is fine. A command's own
flags and `--set TABLE.NAME=VALUE` go over the file, the file over what the pace means, and that over the
defaults here. What `[service]` says holds for every role whose own table does not say otherwise. Paths are
relative to the file's folder. `"none"` stands for nothing where that is allowed, and `inf` is a number.

```toml
[service]
data = "/srv/hearken"
model = "Qwen/Qwen2.5-0.5B-Instruct"

[gateway]
port = 8000
limits.requests_per_minute = 600

[learner.ppo]
clip = 0.15
```

    hearken config check     # OK, or every line that is wrong and what would be right; exit code 2
    hearken config show      # what holds, and where each value comes from; --role, --docs, --model FOLDER

A name that is not known, a value of a wrong kind, and what a role would refuse are told with file and line
before anything starts. Where a setting follows the model, `config show --model FOLDER` shows what comes of
it. `hearken up` and `hearken demo` hand the file to the processes that they start, and decide themselves
where these find each other.
"""


def docs(tables: Tables) -> str:
    """The page."""
    parts = [HEAD, _paces(), *(_table(tables, path) for path in tables.parts)]
    return "\n".join(parts)


def _table(tables: Tables, path: str) -> str:
    kind = tables.parts[path]
    text = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    lines = [f"## [{path}]", "", text, "", "| name | value | default | what it is |", "|---|---|---|---|"]
    lines += _rows(tables, path, kind)
    return "\n".join(lines) + "\n"


def _rows(tables: Tables, path: str, kind: type) -> Iterator[str]:
    for setting in settings_of(kind):
        at = f"{path}.{setting.name}"
        if setting.table is not None:
            yield _row(
                setting.name, f"table [{at}]" + (' or "none"' if at in tables.leaves else ""), "", setting.doc
            )
            continue
        yield _row(setting.name, describe(setting.kind), _default(tables.leaves[at].default), setting.doc)


def _default(value: Any) -> str:
    if value is NEEDED:
        return "of [service]"
    return "" if value is None else f"`{write(value)}`"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _paces() -> str:
    lines = ["## Paces", "", "What `pace` in [service] means, where nothing else is said:", ""]
    lines += ["| pace | setting | value |", "|---|---|---|"]
    for pace, values in PACES.items():
        lines += [_row(pace, path, f"`{write(value)}`") for path, value in values.items()]
    return "\n".join(lines) + "\n"

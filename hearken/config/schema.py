"""The JSON schema of hearken.toml, and of that part of it which the chart takes as `config`."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hearken.config.tables import Tables
from hearken.config.values import schema as of_kind

# What the chart itself decides: where things are, and the engines, which it starts.
CHART_DECIDES = (
    *("service.data", "service.model", "service.engines", "service.kafka", "service.redis", "service.seed"),
    *("gateway.data", "gateway.engines", "gateway.host", "gateway.port", "gateway.kafka", "gateway.redis"),
    "gateway.keys",
    *("service.registry", "service.fetch_port", "controller.registry", "controller.fetch_port"),
    *("controller.data", "controller.engines", "controller.kafka", "controller.redis"),
    *("controller.metrics_host", "controller.metrics_port"),
    *("learner.data", "learner.model", "learner.engine", "learner.kafka", "learner.seed"),
    *("learner.metrics_host", "learner.metrics_port", "learner.registry", "learner.fetch_port"),
    *("engine", "demo", "sft", "judge", "revise", "listen"),
)


_CONFIG = re.compile(r'\n    "config": \{.*?\n    \}(?=,?\n)', re.DOTALL)


def schema(tables: Tables, without: Iterable[str] = ()) -> dict[str, Any]:
    """A JSON schema (draft 7) of the file. without: places of settings and tables that it must not have."""
    made = {
        "type": "object",
        "additionalProperties": False,
        "properties": {table: of_kind(kind) for table, kind in tables.classes.items()},
    }
    for path in without:
        *parents, name = path.split(".")
        at: Any = made
        for parent in parents:
            at = at["properties"][parent]
        del at["properties"][name]
    return made


def written(schema: Mapping[str, Any], indent: str = "") -> str:
    """A schema as JSON, a setting a line."""
    if "properties" not in schema:
        return json.dumps(schema, ensure_ascii=False)
    inner = indent + "    "
    rows = [f'{inner}"{name}": {written(each, inner)}' for name, each in schema["properties"].items()]
    rest = [f'{indent}  "{name}": {json.dumps(schema[name])},' for name in schema if name != "properties"]
    body = ",\n".join(rows)
    return "\n".join(["{", *rest, f'{indent}  "properties": {{', body, f"{indent}  }}", f"{indent}}}"])


def put_into(chart_schema: str, config: Mapping[str, Any]) -> str:
    """A chart's values.schema.json with its property `config` replaced; the rest stays as it is."""
    made, count = _CONFIG.subn(lambda _: f'\n    "config": {written(config, "    ")}', chart_schema)
    if count != 1:
        raise ValueError('the chart\'s schema has no property "config" to replace')
    return made

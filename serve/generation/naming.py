"""The names that a team gives to a completion and to its conversation, in the request.

Votes may use them in place of our ids: `{"metadata": {"external_id": "msg-81", "episode_id": "chat-7"}}`. A
client that keeps its metadata for itself, as Open WebUI does, has the same fields in `hearken`.
"""

from typing import Any

from serve.http.errors import BadRequest
from serve.schemas import fields

_HOLDERS = ("metadata", "hearken")


def names_of(body: dict[str, Any]) -> tuple[str | None, str | None]:
    """The external id and the episode id of a chat request. Raises BadRequest naming the field."""
    holders = {name: body[name] for name in _HOLDERS if isinstance(body.get(name), dict)}
    if not holders:
        return None, None
    return _name(holders, "external_id"), _name(holders, "episode_id")


def _name(holders: dict[str, dict[str, Any]], field: str) -> str | None:
    found = [
        fields.name(holder, field, fields.MAX_ID_CHARS, at=f"{name}.") for name, holder in holders.items()
    ]
    said = {name for name in found if name is not None}
    if len(said) > 1:
        raise BadRequest(
            f"metadata.{field} and hearken.{field} differ; send one of them.", param=f"hearken.{field}"
        )
    return said.pop() if said else None

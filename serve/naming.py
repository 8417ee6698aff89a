"""The names that a team gives to a completion and to its conversation, in the request's metadata.

Votes may use them in place of our ids: `{"metadata": {"external_id": "msg-81", "episode_id": "chat-7"}}`.
"""

from typing import Any

from serve import fields


def names_of(body: dict[str, Any]) -> tuple[str | None, str | None]:
    """The external id and the episode id of a chat request. Raises BadRequest naming the field."""
    metadata = body.get("metadata")
    if type(metadata) is not dict:
        return None, None
    external_id, episode_id = (
        fields.name(metadata, field, fields.MAX_ID_CHARS, at="metadata.")
        for field in ("external_id", "episode_id")
    )
    return external_id, episode_id

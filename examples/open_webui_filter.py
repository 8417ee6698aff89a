"""
title: Feedback for hearken
description: Names each answer by its message, so that `hearken sync open-webui` finds what thumbs are about.
required_open_webui_version: 0.5.0
"""

from typing import Any

Json = dict[str, Any]


class Filter:
    """Open WebUI calls `inlet` with each chat before it is sent. Its own metadata stays with it, so the names
    go into `hearken`. The thumbs of a person and the chats of a person become one user's."""

    def inlet(self, body: Json, __user__: Json | None = None, __metadata__: Json | None = None) -> Json:
        """The chat with the names of its message, its conversation and its user."""
        metadata = __metadata__ or body.get("metadata") or {}
        names = {"external_id": metadata.get("message_id"), "episode_id": metadata.get("chat_id")}
        known = {name: each for name, each in names.items() if each}
        body["hearken"] = {**(body.get("hearken") or {}), **known}
        if __user__ and __user__.get("id"):
            body["user"] = __user__["id"]
        return body

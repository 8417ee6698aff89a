"""The preferences of users in the OpenAPI document."""

from typing import Any

from serve.generation.preferences import PREFERENCES
from serve.schemas.openapi_words import operation, with_body
from serve.schemas.responses import const, listed, of

Json = dict[str, Any]

_COUNT: Json = {"type": "integer", "minimum": 0}

_USER: Json = {"in": "path", "name": "user", "required": True, "schema": {"type": "string"}}
_NAME: Json = {
    "in": "query",
    "name": "name",
    "description": "The user, where no path can have the name: `user` is empty then.",
    "schema": {"type": "string"},
}

PREFERENCE_SCHEMAS: Json = {
    "Preferences": of(
        object=const("preferences"),
        entries=listed({"type": "string"}),
        max_entries=_COUNT,
        max_chars=_COUNT,
    )
}

PREFERENCE_PATHS: Json = {
    "/v1/users/{user}/preferences": {
        "parameters": [_USER, _NAME],
        "get": operation("getPreferences", "What a user asked for in every answer", "Preferences", [404]),
        "put": with_body(
            operation("setPreferences", "Replace what a user asked for", "Preferences", [404, 409]),
            PREFERENCES,
        ),
        "delete": operation("erasePreferences", "Forget what a user asked for", "Preferences", [404]),
    }
}

"""The preferences of users in the OpenAPI document."""

from typing import Any

from serve.generation.preferences import PREFERENCES
from serve.schemas.openapi_words import operation, parameter, with_body
from serve.schemas.responses import const, listed, of
from serve.schemas.words import STRING, integer

Json = dict[str, Any]

_COUNT = integer(0)
_IN_PATH = parameter("path", "user", STRING)
_IN_QUERY = parameter(
    "query", "name", STRING, "The user, where no path can have the name: `user` is empty then."
)

PREFERENCE_SCHEMAS: Json = {
    "Preferences": of(
        object=const("preferences"), entries=listed(STRING), max_entries=_COUNT, max_chars=_COUNT
    )
}

PREFERENCE_PATHS: Json = {
    "/v1/users/{user}/preferences": {
        "parameters": [_IN_PATH, _IN_QUERY],
        "get": operation("getPreferences", "What a user asked for in every answer", "Preferences", [404]),
        "put": with_body(
            operation("setPreferences", "Replace what a user asked for", "Preferences", [404, 409]),
            PREFERENCES,
        ),
        "delete": operation("erasePreferences", "Forget what a user asked for", "Preferences", [404]),
    }
}

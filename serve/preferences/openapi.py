"""The preferences of users in the OpenAPI document."""

from typing import Any

from serve.generation.preferences import PREFERENCES
from serve.schemas.openapi_words import operation, parameter, with_body
from serve.schemas.words import COUNT, STRING, list_of, of, word

Json = dict[str, Any]

_IN_PATH = parameter("path", "user", STRING)
_IN_QUERY = parameter(
    "query", "name", STRING, "The user, where no path can have the name: `user` is empty then."
)

PREFERENCE_SCHEMAS: Json = {
    "Preferences": of(object=word("preferences"), entries=list_of(STRING), max_entries=COUNT, max_chars=COUNT)
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

"""GET /v1/models: the one public model."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve.auth.access import Access
from serve.auth.caller import Caller
from serve.generation.doors import Json
from serve.generation.requests import unknown_model
from serve.http.bodies import json_response
from serve.http.routes import READ, at


class ModelsApi:
    """Shows the model. max_model_len: its context in tokens, None where it is not told. suggestions: what a
    page may offer to begin a chat with. To callers whose chats are kept only by consent it says so."""

    def __init__(
        self, access: Access, model_name: str, max_model_len: int | None, suggestions: Sequence[str]
    ) -> None:
        self._access = access
        self._model_name = model_name
        self._card: Json = {"id": model_name, "object": "model", "created": 0, "owned_by": "hearken"}
        if max_model_len is not None:
            self._card["max_model_len"] = max_model_len
        if suggestions:
            self._card["suggestions"] = list(suggestions)

    @property
    def routes(self) -> list[Route]:
        return [at("/v1/models", self.list, *READ), at("/v1/models/{model:path}", self.read, *READ)]

    async def list(self, request: Request) -> Response:
        """GET /v1/models."""
        card = self._card_for(self._access.caller(request, "chat"))
        return json_response({"object": "list", "data": [card]})

    async def read(self, request: Request) -> Response:
        """GET /v1/models/{model}."""
        caller = self._access.caller(request, "chat")
        model = request.path_params["model"]
        if model != self._model_name:
            raise unknown_model(model, self._model_name)
        return json_response(self._card_for(caller))

    def _card_for(self, caller: Caller) -> Json:
        return self._card if caller.consent else self._card | {"consent": "asked"}

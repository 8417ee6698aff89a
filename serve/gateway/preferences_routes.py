"""The routes of users' preferences."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve.auth.entrance import Entrance
from serve.http.bodies import json_response, read_json
from serve.http.routes import at
from serve.preferences.api import Preferences
from serve.storage.privacy import Privacy
from serve.users import Users

_END = "/preferences"


class PreferencesRoutes:
    """GET, PUT and DELETE /v1/users/{user}/preferences, which come before those of `users`."""

    def __init__(
        self,
        preferences: Preferences,
        users: Users,
        entrance: Entrance,
        privacy: Privacy,
        max_body_bytes: int,
    ) -> None:
        self._preferences = preferences
        self._users = users
        self._entrance = entrance
        self._privacy = privacy
        self._max_body_bytes = max_body_bytes

    @property
    def routes(self) -> list[Route]:
        path = "/v1/users/{user:name}" + _END
        return [at(path, self.show, "GET"), at(path, self.put, "PUT"), at(path, self.forget, "DELETE")]

    async def show(self, request: Request) -> Response:
        """GET: what a user asked for in every answer."""
        if _is_of_name(request):
            return await self._users.show(request)
        caller = await self._entrance.enter(request, "chat")
        user = request.path_params["user"]
        return json_response(await self._preferences.show(user, request.query_params, caller))

    async def put(self, request: Request) -> Response:
        """PUT: replace the list."""
        since = self._privacy.instant()
        caller = await self._entrance.enter(request, "chat")
        user, raw = request.path_params["user"], await read_json(request, self._max_body_bytes)
        return json_response(await self._preferences.put(user, request.query_params, raw, caller, since))

    async def forget(self, request: Request) -> Response:
        """DELETE: erase the list."""
        if _is_of_name(request):
            return await self._users.erase(request)
        caller = await self._entrance.enter(request, "chat")
        user = request.path_params["user"]
        return json_response(await self._preferences.forget(user, request.query_params, caller))


def _is_of_name(request: Request) -> bool:
    """Whether a path's end is the user's name's, its slash quoted; the name in `request` is whole then."""
    if request.scope["raw_path"].endswith(_END.encode()):
        return False
    request.path_params["user"] += _END
    return True

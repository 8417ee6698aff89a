"""GET and DELETE /v1/users/{user}: what is kept of a user, and forgetting it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.convertors import PathConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from feedback.core.erasures import Erasure, entry
from feedback.core.ids import Signer
from feedback.core.log import LogUnavailable
from feedback.exchange.importing import IMPORTED
from feedback.privacy.sealing import Sealer
from feedback.privacy.vault_keys import KeyState
from serve.auth.entrance import Entrance
from serve.generation.generation import Json
from serve.http.bodies import json_response
from serve.http.errors import BadRequest, Conflict, NotFound, Unavailable
from serve.http.routes import at
from serve.preferences.store import PreferenceStore
from serve.receipts.reader import Receipts
from serve.storage.recording import Recorder
from serve.storage.stored import StoredCompletions, StoreUnavailable

_BY = ("name", "pseudonym")


class _Name(PathConvertor):
    """All that is left of a path, line ends too: a user's name may have any character."""

    regex = "(?s:.*)"


register_url_convertor("name", _Name())


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one pseudonym. `events`: as `ReceiptStore.about` counts them."""

    pseudonym: str
    key: KeyState
    stored: int
    preferences: int
    events: Json

    @property
    def is_known(self) -> bool:
        """Whether anything was ever written of them."""
        had_key = self.key.has_key or self.key.erased_at is not None
        kept = self.stored + self.preferences > 0
        return had_key or kept or bool(self.events["completions"] or self.events["votes"])


class Users:
    """Shows users and erases them: their key, and so every text in the log, its copies and its backups."""

    def __init__(
        self,
        signer: Signer,
        sealer: Sealer,
        recorder: Recorder,
        receipts: Receipts,
        stored: StoredCompletions,
        preferences: PreferenceStore,
        entrance: Entrance,
    ) -> None:
        self._entrance = entrance
        self._stored = stored
        self._preferences = preferences
        self._receipts = receipts
        self._signer = signer
        self._sealer = sealer
        self._recorder = recorder

    @property
    def routes(self) -> list[Route]:
        paths = ("/v1/users", "/v1/users/{user:name}")
        return [
            route for path in paths for route in (at(path, self.show, "GET"), at(path, self.erase, "DELETE"))
        ]

    async def show(self, request: Request) -> Response:
        """GET: what is kept of a user of the operator's tenant. Raises as `erase`."""
        tenant = (await self._entrance.enter(request, "operate")).tenant
        try:
            names = await self._pseudonyms(_named(request), request.query_params, tenant)
            kept = [await self._kept(tenant, name) for name in names]
            shaped, descended = await self._receipts.shaped_by(tenant, names)
        except (LogUnavailable, StoreUnavailable) as error:
            raise _not_now("What is kept of the user cannot be said at the moment.") from error
        return json_response(_shown(kept) | {"policy_versions": shaped, "descendants": descended})

    async def erase(self, request: Request) -> Response:
        """DELETE: forget a user of the operator's tenant, by the name that requests gave or the pseudonym.

        What began before, an answer or a vote under way, is written without words. Safe to repeat: after a
        failure, again. Raises NotFound for no name, Conflict for one that is two users', and
        Unavailable when it cannot be made durable now.
        """
        tenant = (await self._entrance.enter(request, "operate")).tenant
        try:
            names = await self._pseudonyms(_named(request), request.query_params, tenant)
            had_texts = await asyncio.to_thread(self._sealer.erase, tenant, *names)
            stored = [await asyncio.to_thread(self._stored.erase, tenant, name) for name in names]
            preferences = [await asyncio.to_thread(self._preferences.erase, tenant, name) for name in names]
            kept = [await self._kept(tenant, name) for name in names]
            gone = [sum(counts) for counts in zip(stored, preferences, strict=True)]
            known = [each.pseudonym for each, had in zip(kept, gone, strict=True) if each.is_known or had]
            for name in known:
                await self._recorder.note(entry(Erasure.of(tenant, name)))
            shaped, descended = await self._receipts.shaped_by(tenant, known)
        except (LogUnavailable, StoreUnavailable) as error:
            raise _not_now("The user cannot be erased at the moment.") from error
        told = {
            "object": "user.deleted",
            "id": known[0] if known else names[0],
            "found": bool(known),
            "deleted": bool(known),
            "had_texts": had_texts,
            "stored_completions": sum(stored),
            "preferences": sum(preferences),
            "policy_versions": shaped,  # that were trained on the user before
            "descendants": descended,  # that began from one of these
        }
        return json_response(told)

    async def _pseudonyms(self, user: str, query: Mapping[str, str], tenant: str) -> list[str]:
        """The pseudonyms of a person: as requests name them, and as imports did before they named them alike.

        A name may look like a pseudonym. Where it is one user's name and another's pseudonym, the request has
        to say which is meant.
        """
        user, by = user or query.get("name", ""), query.get("by")
        if not user:
            raise NotFound("Name the user: /v1/users/{user}.", param="user", code="unknown_url")
        if by is not None and by not in _BY:
            raise BadRequest("by must be name or pseudonym.", param="by")
        named = [self._signer.pseudonym(tenant, name) for name in (user, f"{IMPORTED}:{user}")]
        if not self._signer.is_pseudonym(user):
            if by == "pseudonym":
                raise BadRequest("A pseudonym is u_ and 24 hex digits; leave by out.", param="by")
            return named
        if by is not None:
            return named if by == "name" else [user]
        is_name = any([(await self._kept(tenant, name)).is_known for name in named])
        is_pseudonym = (await self._kept(tenant, user)).is_known
        if is_name and is_pseudonym:
            raise Conflict(
                "This is the name of one user and the pseudonym of another: add ?by=name or ?by=pseudonym.",
                param="by",
                code="ambiguous_user",
            )
        return [user] if is_pseudonym else named if is_name else [user, *named]

    async def _kept(self, tenant: str, pseudonym: str) -> Kept:
        key = await asyncio.to_thread(self._sealer.state, tenant, pseudonym)
        stored = await asyncio.to_thread(self._stored.count, tenant, pseudonym)
        preferences = await asyncio.to_thread(self._preferences.count, tenant, pseudonym)
        return Kept(pseudonym, key, stored, preferences, await self._receipts.about(tenant, pseudonym))


def _named(request: Request) -> str:
    """The user in the path, or where that has none in the query."""
    named: str | None = request.path_params.get("user")
    return request.query_params.get("user", "") if named is None else named


def _shown(kept: list[Kept]) -> Json:
    known = [each for each in kept if each.is_known]
    erased = [each.key.erased_at for each in known if each.key.erased_at is not None]
    key = "present" if any(each.key.has_key for each in known) else "erased" if erased else "none"
    kinds: dict[str, list[Json]] = {}
    for each in known:
        for kind, counted in each.events["votes"].items():
            kinds.setdefault(kind, []).append(counted)
    votes = {kind: _together(counted) for kind, counted in sorted(kinds.items())}
    completions = [each.events["completions"] for each in known if each.events["completions"]]
    return {
        "object": "user",
        "id": (known or kept)[0].pseudonym,
        "pseudonyms": [each.pseudonym for each in known],
        "found": bool(known),
        "key": key,  # of the texts
        "erased_at": max(erased, default=None),
        "completions": _together(completions),
        "votes": {**_together(list(votes.values())), "kinds": votes},
        "stored_completions": sum(each.stored for each in known),
        "preferences": sum(each.preferences for each in known),
    }


def _together(counted: list[Json]) -> Json:
    return {
        "count": sum(each["count"] for each in counted),
        "first_at": min((each["first_at"] for each in counted if each["count"]), default=None),
        "last_at": max((each["last_at"] for each in counted if each["count"]), default=None),
    }


def _not_now(sentence: str) -> Unavailable:
    return Unavailable(f"{sentence[:-1]}; send the request again.", code="log_unavailable")

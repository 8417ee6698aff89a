"""GET, PUT and DELETE /v1/users/{user}/preferences: what a person asked for in every answer.

It holds from the person's next chat on, in theirs alone. Others get it only as they get anything that was
learned: by votes, training, gate and canary.
"""

import asyncio
import logging
from collections.abc import Mapping

from feedback.core.ids import Signer
from feedback.core.log import LogUnavailable
from feedback.privacy.vault_keys import UserKey
from serve.auth.caller import Caller
from serve.generation.generation import Json
from serve.generation.preferences import PREFERENCES, checked
from serve.generation.request_schemas import MAX_USER_CHARS
from serve.http.bodies import parse_object
from serve.http.errors import BadRequest, Conflict, Forbidden, NotFound, Unavailable
from serve.metrics import Metrics
from serve.preferences.store import Change, Entries, PreferenceStore
from serve.schemas.validator import check
from serve.storage.privacy import Privacy
from serve.storage.stored import StoreUnavailable

log = logging.getLogger(__name__)


class Preferences:
    """The lists of the users of all tenants. bounds: entries that a user may have, characters of an entry."""

    def __init__(
        self,
        signer: Signer,
        privacy: Privacy,
        store: PreferenceStore,
        bounds: tuple[int, int],
        metrics: Metrics,
    ) -> None:
        self._signer = signer
        self._privacy = privacy
        self._store = store
        self._most, self._chars = bounds
        self._metrics = metrics

    async def of(self, tenant: str, user: str) -> Entries:
        """What the prompts of a user (a pseudonym) get. Never raises: a store that is away fails no chat, and
        `hearken_preferences_unavailable_total` counts the chats that went without."""
        if self._most == 0:
            return ()
        try:
            known = self._store.at_hand(tenant, user)
            return known if known is not None else await asyncio.to_thread(self._store.read, tenant, user)
        except (StoreUnavailable, LogUnavailable) as error:
            self._metrics.preferences_unavailable.inc()
            log.warning("a chat goes without its user's preferences: %s", error)
            return ()

    async def show(self, user: str, query: Mapping[str, str], caller: Caller) -> Json:
        """A user's list; an empty one for a user whom nobody knows. Raises NotFound, Unavailable."""
        try:
            pseudonym = self._pseudonym(user, query, caller)
            return self._shown(await asyncio.to_thread(self._store.read, caller.tenant, pseudonym))
        except (StoreUnavailable, LogUnavailable) as error:
            raise _not_now() from error

    async def put(self, user: str, query: Mapping[str, str], raw: bytes, caller: Caller, since: int) -> Json:
        """Replace a user's list; in force for the next chat.

        since: the instant at which the request began, as erasures count time. Raises BadRequest, Forbidden
        without consent, Conflict for a user who was erased meanwhile, NotFound, Unavailable.
        """
        body = parse_object(raw)
        check(body, PREFERENCES)
        pseudonym = self._pseudonym(user, query, caller)
        entries = checked(body["entries"], self._most, self._chars)
        _check_consent(body.get("consent"), caller)
        kept = checked([self._privacy.text(entry) for entry in entries], self._most, self._chars)
        return await self._change(caller.tenant, pseudonym, since, lambda _: kept)

    async def add(self, user: str, text: str, field: str, caller: Caller, since: int) -> Json:
        """Put an entry to a user's list, where it is not there already. field: of a vote, which asks for it.

        Raises as `put`, and Conflict for a list that is full.
        """
        (entry,) = checked([text], min(self._most, 1), self._chars, field)
        _check_consent(None, caller)
        (kept,) = checked([self._privacy.text(entry)], 1, self._chars, field)

        def added(before: Entries) -> Entries:
            if kept not in before and len(before) >= self._most:
                raise Conflict(
                    f"The user has {len(before)} preferences, the most there may be: change the list with "
                    "PUT /v1/users/{user}/preferences, or send the vote without from_now_on.",
                    param="from_now_on",
                    code="preferences_full",
                )
            return before if kept in before else (*before, kept)

        return await self._change(caller.tenant, self._pseudonym(user, {}, caller), since, added)

    async def forget(self, user: str, query: Mapping[str, str], caller: Caller) -> Json:
        """Erase a user's list. Raises NotFound, Unavailable."""
        try:
            pseudonym = self._pseudonym(user, query, caller)
            await asyncio.to_thread(self._store.erase, caller.tenant, pseudonym)
        except StoreUnavailable as error:
            raise _not_now() from error
        return self._shown(())

    async def _change(self, tenant: str, pseudonym: str, since: int, change: Change) -> Json:
        try:
            key = await self._privacy.key(tenant, pseudonym, since)
            if key is None:
                raise Conflict(
                    "The user was erased while the request was under way: nothing was kept. Send it again if "
                    "it is still wanted.",
                    code="user_erased",
                )
            return self._shown(await asyncio.to_thread(self._kept, tenant, pseudonym, key, change))
        except (StoreUnavailable, LogUnavailable) as error:
            raise _not_now() from error

    def _kept(self, tenant: str, pseudonym: str, key: UserKey, change: Change) -> Entries:
        return self._store.change(tenant, pseudonym, key, change)

    def _pseudonym(self, user: str, query: Mapping[str, str], caller: Caller) -> str:
        """Of the user whom a path names, by the name that chats give; a name that no path can have is in the
        query. Raises NotFound, BadRequest."""
        name = user or query.get("name", "")
        if not name:
            raise NotFound("Name the user: /v1/users/{user}/preferences.", param="user", code="unknown_url")
        if len(name) > MAX_USER_CHARS:
            raise BadRequest(f"user is longer than {MAX_USER_CHARS} characters.", param="user")
        return self._signer.pseudonym(caller.tenant, name)

    def _shown(self, entries: Entries) -> Json:
        return {
            "object": "preferences",
            "entries": list(entries),
            "max_entries": self._most,
            "max_chars": self._chars,
        }


def _check_consent(said: bool | None, caller: Caller) -> None:
    """Raises Forbidden where nothing of a user may be kept."""
    if not (caller.consent if said is None else said):
        raise Forbidden(
            "Nothing is kept of a user without consent: PUT /v1/users/{user}/preferences with "
            '"consent": true, once the user has given it.',
            param="consent",
            code="consent_needed",
        )


def _not_now() -> Unavailable:
    return Unavailable("Preferences cannot be read or written now; send it again.", code="store_unavailable")

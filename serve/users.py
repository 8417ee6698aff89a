"""DELETE /v1/users/{user}: a user is forgotten."""

import asyncio

from feedback.erasures import Erasure, entry
from feedback.ids import Signer
from feedback.log import LogUnavailable
from feedback.sealing import Sealer
from serve.caller import Caller
from serve.errors import NotFound, Unavailable
from serve.generation import Json
from serve.receipts import Receipts
from serve.recording import Recorder
from serve.stored import StoredCompletions, StoreUnavailable


class Users:
    """Erases users: their key, and with it every text of theirs in the log, its copies and its backups."""

    def __init__(
        self,
        signer: Signer,
        sealer: Sealer,
        recorder: Recorder,
        receipts: Receipts,
        stored: StoredCompletions,
    ) -> None:
        self._stored = stored
        self._receipts = receipts
        self._signer = signer
        self._sealer = sealer
        self._recorder = recorder

    async def erase(self, user: str, caller: Caller) -> Json:
        """Forget a user of the caller's tenant, by the name that requests gave them or by their pseudonym.

        Safe to repeat: after a failure, again. Raises NotFound for no name, Unavailable when it cannot be
        made durable now.
        """
        if not user:
            raise NotFound(
                "Name the user to erase: DELETE /v1/users/{user}.", param="user", code="unknown_url"
            )
        pseudonym = user if self._signer.is_pseudonym(user) else self._signer.pseudonym(caller.tenant, user)
        try:
            had_texts = self._sealer.erase(caller.tenant, pseudonym)
            await asyncio.to_thread(self._stored.erase, caller.tenant, pseudonym)
            await self._recorder.note(entry(Erasure.of(caller.tenant, pseudonym)))
            versions = await self._receipts.trained_on(caller.tenant, pseudonym)
        except (OSError, LogUnavailable, StoreUnavailable) as error:
            raise Unavailable(
                "The user cannot be erased at the moment; send the request again.", code="log_unavailable"
            ) from error
        return {
            "object": "user.deleted",
            "id": pseudonym,
            "deleted": True,
            "had_texts": had_texts,
            "policy_versions": versions,  # that were trained on the user before
        }

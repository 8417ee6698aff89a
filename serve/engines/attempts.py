"""One request, tried on one engine after another until one begins to answer.

    want = Want(version, key_id, conversation)
    while True:
        try:
            async with fleet.slot(want) as engine:
                return await ask(engine)
        except UpstreamError as failure:
            if not want.may_try_again(failure):
                raise

Only for as long as no byte of an answer has reached the client: what was begun cannot be begun anew.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from serve.engines.upstream import EngineGone, PolicyMissing, Refused, UpstreamError

if TYPE_CHECKING:
    from serve.engines.watching import Engine

MAX_ATTEMPTS = 3
MAX_BROKEN = 2
"""Attempts of a request while connections break on which it was sent: it may be what kills the engines."""


@dataclass(frozen=True, slots=True, eq=False)
class Want:
    """What a request needs of an engine: a policy version, and no other instead.

    `key_id`: whose turn in the queue it takes. `conversation`: from serve/engines/affinity.py. `tried`: the
    engines that it was on already; none gets it twice.
    """

    version: str
    key_id: str
    conversation: bytes
    tried: "set[Engine]" = field(default_factory=set)

    def may_try_again(self, failure: UpstreamError) -> bool:
        """Whether another engine may do better. Not when one has answered, with a refusal or with an error:
        a request that makes engines fail must not go through all of them.
        """
        if isinstance(failure, EngineGone | PolicyMissing):
            return len(self.tried) < MAX_ATTEMPTS
        return not isinstance(failure, Refused) and len(self.tried) < MAX_BROKEN

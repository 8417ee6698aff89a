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

from serve.upstream import Refused, UpstreamError

if TYPE_CHECKING:
    from serve.watching import Engine

MAX_ATTEMPTS = 3
"""Of one request: one that kills engines must not go through the whole fleet."""


@dataclass(frozen=True, slots=True, eq=False)
class Want:
    """What a request needs of an engine: a policy version, and no other instead.

    `key_id`: whose turn in the queue it takes. `conversation`: from serve/affinity.py. `tried`: the engines
    that it was on already; none gets it twice.
    """

    version: str
    key_id: str
    conversation: bytes
    tried: "set[Engine]" = field(default_factory=set)

    def may_try_again(self, failure: UpstreamError) -> bool:
        """Whether another engine may do better. Not when the request is at fault: all would refuse it.

        (404 is about the policy, which the gateway named, and not the client.)
        """
        if isinstance(failure, Refused) and failure.status != 404 and failure.status < 500:
            return False
        return len(self.tried) < MAX_ATTEMPTS

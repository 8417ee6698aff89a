"""Who sent a request, as far as its API key tells."""

from dataclasses import dataclass
from typing import Literal

from serve.auth.limits import NO_LIMITS, Limits

Scope = Literal["chat", "feedback", "operate"]
ALL_SCOPES: frozenset[Scope] = frozenset({"chat", "feedback", "operate"})


@dataclass(frozen=True, slots=True)
class Caller:
    """The key's id ("" where the service has no keys), its tenant, what it may do and how much of it."""

    key_id: str = ""
    tenant: str = "default"
    scopes: frozenset[Scope] = ALL_SCOPES
    limits: Limits = NO_LIMITS  # every number is set
    consent: bool = True  # what a request that says nothing of consent is taken to say
    is_blind: bool = False  # it may vote, so it is told nothing that tells policies apart
    key_name: str = ""  # what the key is for, as people call it
    is_operator: bool = False  # never in the open service, whose callers are its voters too


OPEN = Caller()  # everyone, where the service has no keys

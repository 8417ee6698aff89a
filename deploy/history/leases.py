"""Leases: which versions each gateway may still send requests to, written where the controller sees it.

A gateway writes one record under `KEY` + its own name, again and again; the record of one that died is
forgotten by the shared store. The controller unloads no version that any record names
(deploy/engines/drain.py).
"""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, ValidationError

from feedback.shared import SharedStore, SharedUnavailable

KEY = "lease/gateway/"

LEASE_SECONDS = 4.0
"""How long a record counts after it was written."""

RENEW_SECONDS = 1.0
"""How often a gateway writes it: two writes may fail before a living gateway's lease ends."""


class Lease(BaseModel):
    """What one gateway holds."""

    model_config = ConfigDict(frozen=True, extra="allow")

    versions: frozenset[str]  # of its routing table, and of the requests that it has in flight
    epoch: int = 0  # of the table that new requests go by; 0 of gateways that do not tell it


def write(store: SharedStore, gateway: str, versions: Iterable[str], epoch: int = 0) -> None:
    """Hold these versions for `LEASE_SECONDS`. Raises `SharedUnavailable`."""
    lease = Lease(versions=frozenset(versions), epoch=epoch)
    store.put(KEY + gateway, lease.model_dump_json().encode(), LEASE_SECONDS)


def give_up(store: SharedStore, gateway: str) -> None:
    """Hold nothing any more. Raises `SharedUnavailable`."""
    store.delete(KEY + gateway)


def held(store: SharedStore) -> frozenset[str] | None:
    """The versions that any gateway holds; None when that is not known.

    It is not known when the store is away, when a record cannot be read, and when there is no record at
    all: then no gateway runs, or the store has just lost its memory, or gateways use another store.
    """
    leases = read(store)
    return frozenset().union(*(lease.versions for lease in leases)) if leases else None


def read(store: SharedStore) -> list[Lease] | None:
    """The lease of every gateway that lives; None when the store is away, or one of them cannot be read."""
    try:
        return [Lease.model_validate_json(record) for record in store.values(KEY).values()]
    except (SharedUnavailable, ValidationError):
        return None

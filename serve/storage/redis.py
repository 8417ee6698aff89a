"""Stored completions of several gateways, in Redis."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import redis

from feedback.shared import redis_client
from serve.storage.stored import (
    KEEP_SECONDS,
    Page,
    Query,
    SqliteStored,
    Stored,
    StoredCompletions,
    StoreUnavailable,
)

_TIMEOUT_SECONDS = 2.0


class RedisStored:
    """`StoredCompletions` of several gateways, in Redis, which forgets them by itself.

    A hash for each answer, a sorted set of ids by place for each tenant, a set of ids for each user. Ids of
    hashes that are gone are dropped from the sets when they are met.
    """

    def __init__(self, url: str, keep_seconds: float = KEEP_SECONDS) -> None:
        self._keep_ms = max(1, round(keep_seconds * 1000))
        self._redis = redis_client(url, _TIMEOUT_SECONDS)

    def put(self, item: Stored) -> None:
        """See `StoredCompletions.put`."""
        key, everything, of_user = _keys(item.tenant, item.completion_id, item.user)
        values = {
            "user": item.user,
            "model": item.model,
            "answer": orjson.dumps(item.answer),
            "messages": orjson.dumps(item.messages),
            "metadata": orjson.dumps(dict(item.metadata)),
        }
        with self._working() as db, db.pipeline() as pipe:
            place = db.incr(_PLACE)
            pipe.hset(key, mapping=values).pexpire(key, self._keep_ms)
            for index in (everything, of_user):
                pipe.zadd(index, {item.completion_id: place}).pexpire(index, self._keep_ms)
            pipe.execute()

    def get(self, tenant: str, completion_id: str) -> Stored | None:
        """See `StoredCompletions.get`."""
        with self._working() as db:
            return _of_hash(tenant, completion_id, db.hgetall(_keys(tenant, completion_id)[0]))

    def set_metadata(self, tenant: str, completion_id: str, metadata: Mapping[str, str]) -> Stored | None:
        """See `StoredCompletions.set_metadata`."""
        item = self.get(tenant, completion_id)
        if item is None:
            return None
        with self._working() as db:
            # Only where it still is: a bare HSET would bring back what expired or was deleted meanwhile.
            key = _keys(tenant, completion_id)[0]
            there = db.eval(_SET_IF_THERE, 1, key, orjson.dumps(dict(metadata)))
        return replace(item, metadata=dict(metadata)) if there else None

    def delete(self, tenant: str, completion_id: str) -> bool:
        """See `StoredCompletions.delete`."""
        item = self.get(tenant, completion_id)
        if item is None:
            return False
        key, everything, of_user = _keys(tenant, completion_id, item.user)
        with self._working() as db, db.pipeline() as pipe:
            pipe.delete(key).zrem(everything, completion_id).zrem(of_user, completion_id)
            return bool(pipe.execute()[0])

    def page(self, tenant: str, query: Query) -> Page | None:
        """See `StoredCompletions.page`."""
        items: list[Stored] = []
        with self._working() as db:
            after = None
            if query.after is not None:
                after = db.zscore(_keys(tenant)[1], query.after)
                if after is None or not db.exists(_keys(tenant, query.after)[0]):
                    return None
            for item in self._walk(db, tenant, query.order, after):
                if _fits(item, query):
                    items.append(item)
                    if len(items) > query.limit:
                        break
        return Page(items[: query.limit], len(items) > query.limit)

    def _walk(self, db: Any, tenant: str, order: str, after: float | None) -> Iterator[Stored]:
        """All answers of a tenant behind a place, a hundred at a time."""
        everything = _keys(tenant)[1]
        while True:
            if order == "asc":
                low = "-inf" if after is None else f"({after:.0f}"
                ids = db.zrangebyscore(everything, low, "+inf", start=0, num=100, withscores=True)
            else:
                high = "+inf" if after is None else f"({after:.0f}"
                ids = db.zrevrangebyscore(everything, high, "-inf", start=0, num=100, withscores=True)
            if not ids:
                return
            with db.pipeline(transaction=False) as pipe:
                for completion_id, _ in ids:
                    pipe.hgetall(_keys(tenant, completion_id.decode())[0])
                hashes = pipe.execute()
            for (completion_id, after), found in zip(ids, hashes, strict=True):  # noqa: B007
                item = _of_hash(tenant, completion_id.decode(), found)
                if item is None:
                    db.zrem(everything, completion_id)
                else:
                    yield item

    def count(self, tenant: str, user: str) -> int:
        """See `StoredCompletions.count`."""
        with self._working() as db:
            ids = db.zrange(_keys(tenant, "", user)[2], 0, -1)
            return sum(db.exists(_keys(tenant, completion_id.decode())[0]) for completion_id in ids)

    def erase(self, tenant: str, user: str) -> int:
        """See `StoredCompletions.erase`."""
        with self._working() as db:
            ids = db.zrange(_keys(tenant, "", user)[2], 0, -1)
        return sum(self.delete(tenant, completion_id.decode()) for completion_id in ids)

    def close(self) -> None:
        """See `StoredCompletions.close`."""
        self._redis.close()

    @contextlib.contextmanager
    def _working(self) -> Iterator[Any]:
        try:
            yield self._redis
        except redis.RedisError as error:
            raise StoreUnavailable(f"Redis does not answer: {error}") from error


_PLACE = "hearken:stored-place"
_SET_IF_THERE = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'metadata', ARGV[1])
return 1
"""


def _keys(tenant: str, completion_id: str = "", user: str = "") -> tuple[str, str, str]:
    """The keys of an answer, of the ids of its tenant, and of the ids of its user."""
    tenant = quote(tenant, safe="")
    return (
        f"hearken:stored:{tenant}:{completion_id}",
        f"hearken:stored-ids:{tenant}",
        f"hearken:stored-user:{tenant}:{user}",
    )


def _of_hash(tenant: str, completion_id: str, found: dict[bytes, bytes]) -> Stored | None:
    if not found:
        return None
    texts = (orjson.loads(found[name]) for name in (b"answer", b"messages", b"metadata"))
    return Stored(tenant, completion_id, found[b"user"].decode(), found[b"model"].decode(), *texts)


def _fits(item: Stored, query: Query) -> bool:
    if query.model not in (None, item.model) or not item.completion_id.startswith(query.prefix):
        return False
    return all(item.metadata.get(key) == value for key, value in query.metadata.items())


def open_stored(data: Path, redis_url: str | None, keep_seconds: float = KEEP_SECONDS) -> StoredCompletions:
    """Redis when there is one, else a file in the data folder. Answers are kept for `keep_seconds`."""
    if redis_url is None:
        return SqliteStored(data / "stored.db", keep_seconds)
    return RedisStored(redis_url, keep_seconds)

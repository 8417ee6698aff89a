"""Objects in an S3 bucket: read, written once, listed and deleted; and what to do while the server is away.

The client is botocore (`pip install 'hearken[s3]'`). Credentials, region, endpoint and certificates come from
where AWS's own tools have them: AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL_S3, a profile, a role.
"""

import base64
import hashlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from deploy.registry.errors import RegistryAway

logger = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_SECONDS, SILENT_SECONDS = 3.0, 20.0
"""How long a server may take to be reached, and to send the next bytes."""

REST_SECONDS = 5.0
"""How long a server that was away is not asked again: a controller has more to do than to wait for it."""

MAX_BYTES = 64 * 2**20
"""Of an object that is read into memory: a manifest."""

_BLOCK = 2**20
_DELETED_AT_ONCE = 1000  # S3's limit
_URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[^?#]*))?")
_STRANGER = ("InvalidAccessKeyId", "ExpiredToken", "InvalidToken", "XAdminUserNotFound")
_GONE, _TAKEN = ("NoSuchKey", "404"), ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")

Wait = Callable[[RegistryAway], None]
"""What is done before the server is asked once more. Raises to give up."""


class Missing(Exception):
    """There is no such object."""


class Taken(Exception):
    """There is an object of that name already."""


class Object(NamedTuple):
    """An object: its name below the prefix, its size in bytes, and the Unix time of its writing."""

    key: str
    size: int
    at: float


def split_url(url: str) -> tuple[str, str]:
    """Bucket and prefix, "" or with a slash at its end, of s3://BUCKET/PREFIX. Raises ValueError."""
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError(f"{url!r} is no place in S3; write s3://BUCKET or s3://BUCKET/PREFIX")
    prefix = (found["prefix"] or "").strip("/")
    if "//" in prefix or any(part in (".", "..") for part in prefix.split("/")):
        raise ValueError(f"{url!r} has a prefix with an empty part or dots; write s3://BUCKET/PREFIX")
    return found["bucket"], f"{prefix}/" if prefix else ""


class Bucket:
    """The objects below s3://BUCKET/PREFIX. Names of objects are below the prefix.

    wait: called while the server is away, before it is asked again; without it, `RegistryAway` is raised, and
    for `rest_seconds` at once. Everything here may raise that.
    """

    def __init__(self, url: str, wait: Wait | None = None, rest_seconds: float = REST_SECONDS) -> None:
        self.url = url.rstrip("/")
        self._bucket, self._prefix = split_url(url)
        self._wait, self._rest_seconds = wait, rest_seconds
        self.away: RegistryAway | None = None  # why it cannot be used at present
        self._asked_at = float("-inf")
        self._lock = threading.Lock()
        self._made: Any = None

    def check(self) -> None:
        """Ask the bucket for one name. Raises `RegistryAway`, also where nobody is let in; never waits."""
        self._once(lambda s3: s3.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1))

    def get(self, key: str) -> bytes:
        """A small object's bytes. Raises `Missing`, and ValueError for one that is not small."""
        return b"".join(self._ask(lambda s3: list(self._blocks(s3, key, MAX_BYTES))))

    def download(self, key: str, target: Path) -> str:
        """Write an object into a file, which is there or not; the sha256 of what was written. Raises
        `Missing`."""

        def load(s3: Any) -> str:
            digest = hashlib.sha256()
            with target.open("wb") as file:
                for block in self._blocks(s3, key):
                    digest.update(block)
                    file.write(block)
            return digest.hexdigest()

        return self._ask(load)

    def put(self, key: str, content: bytes | Path) -> None:
        """Write an object that is not there yet. The server refuses bytes that have changed on their way.

        Raises `Taken`; where that is because an earlier try came through unheard, all is well.
        """
        digest = _sha256(content)

        def store(s3: Any) -> None:
            with _opened(content) as body:
                s3.put_object(
                    Bucket=self._bucket,
                    Key=self._prefix + key,
                    Body=body,
                    IfNoneMatch="*",
                    ChecksumSHA256=base64.b64encode(digest).decode(),
                )

        try:
            self._ask(store)
        except Taken:
            if not self._holds(key, digest):
                raise

    def _holds(self, key: str, digest: bytes) -> bool:
        found = hashlib.sha256()

        def read(s3: Any) -> bytes:
            for block in self._blocks(s3, key):
                found.update(block)
            return found.digest()

        return self._ask(read) == digest

    def listed(self, below: str = "") -> list[Object]:
        """All objects whose names begin with `below`, in the order of names."""

        def read(s3: Any) -> list[Object]:
            pages = s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + below
            )
            return [
                Object(each["Key"][len(self._prefix) :], each["Size"], each["LastModified"].timestamp())
                for page in pages
                for each in page.get("Contents", ())
            ]

        return self._ask(read)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there count as deleted."""

        def drop(some: Sequence[str], s3: Any) -> None:
            named = [{"Key": self._prefix + key} for key in some]
            found = s3.delete_objects(Bucket=self._bucket, Delete={"Objects": named, "Quiet": True})
            for error in found.get("Errors", ()):
                raise RegistryAway(f"{self.url} does not delete {error['Key']}: {error.get('Message')}")

        for first in range(0, len(keys), _DELETED_AT_ONCE):
            self._ask(partial(drop, keys[first : first + _DELETED_AT_ONCE]))

    # -- asking -----------------------------------------------------------------------------------------

    def _blocks(self, s3: Any, key: str, most: int | None = None) -> Iterator[bytes]:
        answer = s3.get_object(Bucket=self._bucket, Key=self._prefix + key)
        if most is not None and answer["ContentLength"] > most:
            raise ValueError(f"{self.url}/{key} has {answer['ContentLength']} bytes, {most} are allowed")
        with closing(answer["Body"]) as body:
            yield from body.iter_chunks(_BLOCK)

    def _ask(self, work: Callable[[Any], T]) -> T:
        """Do some work with the client, again and again where `wait` says so."""
        while True:
            away = self.away
            rested = time.monotonic() - self._asked_at >= self._rest_seconds
            if self._wait is None and away is not None and not rested:
                raise away
            try:
                return self._once(work)
            except RegistryAway as error:
                if self._wait is None:
                    raise
                self._wait(error)

    def _once(self, work: Callable[[Any], T]) -> T:
        try:
            with self._told():
                found = work(self._client())
        except RegistryAway as error:
            if str(self.away) != str(error):
                logger.warning("%s", error)
            self.away, self._asked_at = error, time.monotonic()
            raise
        except (Missing, Taken):
            self._is_back()
            raise
        self._is_back()
        return found

    def _is_back(self) -> None:
        if self.away is not None:
            logger.info("%s can be used again", self.url)
        self.away = None

    def _client(self) -> Any:
        """The client, made when it is first needed: botocore takes a third of a second to load."""
        with self._lock:
            if self._made is None:
                from botocore.config import Config
                from botocore.session import Session

                config = Config(
                    connect_timeout=CONNECT_SECONDS,
                    read_timeout=SILENT_SECONDS,
                    retries={"mode": "standard", "total_max_attempts": 2},
                    # The manifest says what bytes have to be; not every server knows S3's newer sums.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                )
                try:
                    self._made = Session().create_client("s3", config=config)
                except ValueError as error:
                    raise RegistryAway(
                        f"{self.url}: AWS's settings cannot be used: {_line(error)}"
                    ) from error
            return self._made

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the client raises, in our own words."""
        try:
            from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
        except ImportError as error:
            raise RegistryAway(f"{self.url} needs a client of S3: pip install 'hearken[s3]'") from error
        try:
            yield
        except ClientError as error:
            raise self._refused(error.response) from error
        except NoCredentialsError as error:
            raise RegistryAway(
                f"{self.url}: there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "whatever else AWS's tools read"
            ) from error
        except BotoCoreError as error:
            raise RegistryAway(f"{self.url} does not answer: {_line(error)}") from error

    def _refused(self, answer: dict[str, Any]) -> Exception:
        told, status = answer.get("Error", {}), answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = str(told.get("Code", status))
        if code in _GONE:
            return Missing(self.url)
        if code in _TAKEN:
            return Taken(self.url)
        message = f"{code}, {_line(told.get('Message') or 'without a word')}"
        if code == "NoSuchBucket":
            return RegistryAway(f"{self.url}: there is no bucket {self._bucket}; make it, or mend the name")
        if status in (401, 403) or code in _STRANGER:
            return RegistryAway(
                f"{self.url} does not let us in ({message}): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY "
                "and what they may do"
            )
        return RegistryAway(f"{self.url} does not answer as it should: {message}")


def _sha256(content: bytes | Path) -> bytes:
    if isinstance(content, bytes):
        return hashlib.sha256(content).digest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@contextmanager
def _opened(content: bytes | Path) -> Iterator[Any]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        yield file


def _line(text: object) -> str:
    return " ".join(str(text).split())[:300]

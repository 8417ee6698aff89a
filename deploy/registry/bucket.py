"""The adapter registry in an S3 bucket, with copies on this machine's disk.

It is laid out as the folder is: `policy-…/manifest.json` beside the version's files. A manifest is written
last, so a version without one does not exist. Everything is written once (`If-None-Match: *`), numbers too:
whoever writes `claims/7` publishes version 7.
"""

import hashlib
import os
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from deploy.registry.copies import Copies
from deploy.registry.errors import RegistryAway, RegistryError, UnknownVersion, unknown
from deploy.registry.files import COLLECTED, MANIFEST, check_digest, parse_manifest
from deploy.registry.manifest import Manifest
from deploy.registry.registry import Registry, Stored
from deploy.registry.s3 import Bucket, Object, Taken
from deploy.registry.versions import in_order, is_version, seq_of
from feedback.core.files import replace_durably

CLAIMS = "claims/"
COPIES = 32
"""How many copies a machine keeps; engines keep 16 adapters by themselves."""

_MANIFESTS_PER_COPY = 8


class BucketRegistry(Registry):
    """The versions in a bucket. folder: of the copies. copies: how many are kept.

    All methods raise as those of `Registry`, and `RegistryAway`. What is copied already is found while the
    bucket is away.
    """

    def __init__(
        self, bucket: Bucket, folder: Path, copies: int = COPIES, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(folder, clock)
        self.where = bucket.url
        self.bucket = bucket
        self._copies = Copies(bucket, "", folder, copies)
        self._kept = copies * _MANIFESTS_PER_COPY
        self._read = folder / "manifests"
        self._read.mkdir(exist_ok=True)

    @property
    def away(self) -> RegistryAway | None:
        """Why the bucket cannot be used at present."""
        return self.bucket.away

    def versions(self) -> list[str]:
        """Every version whose files are here, oldest first."""
        return [each.version for each in self.sizes()]

    def sizes(self) -> list[Stored]:
        """Every version whose files are here, oldest first, with what these take."""
        sizes, published, gone = Counter[str](), dict[str, float](), set[str]()
        for each in self.bucket.listed("policy-"):
            version, _, name = each.key.partition("/")
            if name == MANIFEST:
                published[version] = each.at
            elif name == COLLECTED:
                gone.add(version)
            else:
                sizes[version] += each.size
        names = in_order(version for version in published.keys() - gone if is_version(version))
        return [Stored(version, sizes[version], published[version]) for version in names]

    def strays(self, before: float) -> list[Object]:
        """Objects from before a time that belong to no version: of publishers that died before their
        manifest, and of policies in training whose learner died."""
        listed = self.bucket.listed("policy-")
        whole = {each.key.partition("/")[0] for each in listed if each.key.endswith(f"/{MANIFEST}")}
        left = [each for each in listed if each.key.partition("/")[0] not in whole]
        return [each for each in (*left, *self.bucket.listed("rollouts/")) if each.at < before]

    def collect(self, version: str) -> None:
        """Delete a version's files but the manifest, for good."""
        listed = [stored.key for stored in self.bucket.listed(f"{version}/")]
        if f"{version}/{MANIFEST}" not in listed:
            raise unknown(version, self.where, self.versions())
        self.bucket.put(f"{version}/{COLLECTED}", b"{}")  # first, see `Registry.collect`
        left = (f"{version}/{MANIFEST}", f"{version}/{COLLECTED}")
        self.bucket.delete([key for key in listed if key not in left])

    def path(self, version: str) -> Path:
        """The folder of a version's copy, which is made if need be."""
        self._check_name(version)
        return self._copies.fetch(version)

    def manifest(self, version: str, digest: str | None = None) -> Manifest:
        """The manifest of a version; digest: the sha256 that it must have, where that is known."""
        return parse_manifest(self._manifest(version, digest), f"{self.where}/{version}/{MANIFEST}", digest)

    def manifest_digest(self, version: str) -> str:
        """The sha256 of a version's manifest."""
        return hashlib.sha256(self._manifest(version)).hexdigest()

    def verify(self, version: str, digest: str | None = None) -> Manifest:
        """Read every file of a version's copy again. One that is damaged is made anew from the bucket."""
        self._check_name(version)
        self._copies.fetch(version, digest)
        try:
            return super().verify(version, digest)
        except UnknownVersion:
            raise
        except RegistryError:
            self._copies.drop(version)
            self._copies.fetch(version, digest)
            return super().verify(version, digest)

    def publish(self, source: Path, *, after_seq: int = 0, **described: Any) -> Manifest:
        """Put an adapter into the bucket as the next version, see `Registry.publish`.

        Raises `RegistryError` also for a server that writes an object although it is there already: two
        learners could then publish under one number.
        """
        number = self._claim(after_seq)
        with tempfile.TemporaryDirectory() as scratch:
            staged = Registry(Path(scratch), self._clock)
            manifest = staged.publish(source, after_seq=number - 1, **described)
            folder = staged.path(manifest.version)
            for name in (*manifest.files, MANIFEST):  # the manifest last: with it the version exists
                try:
                    self.bucket.put(f"{manifest.version}/{name}", folder / name)
                except Taken:
                    raise RegistryError(
                        f"{self.where}/{manifest.version}/{name} is there already, and it is another"
                    ) from None
        return manifest

    def _claim(self, after_seq: int) -> int:
        """The next number, which nobody else gets."""
        listed = [stored.key for stored in self.bucket.listed()]
        claimed = [int(key[len(CLAIMS) :]) for key in listed if _is_claim(key)]
        number = 1 + max([after_seq, *claimed, *(seq_of(key.partition("/")[0]) for key in listed)])
        while not self._claims(number):
            number += 1
        if self._claims(number):
            raise RegistryError(
                f"{self.where} does not hold to If-None-Match: it wrote an object that was there already, so "
                "two learners could publish under one number; use a server that has conditional writes"
            )
        return number

    def _claims(self, number: int) -> bool:
        try:
            self.bucket.put(f"{CLAIMS}{number}", uuid.uuid4().hex.encode())
        except Taken:
            return False
        return True

    def _check_name(self, version: str) -> None:
        if not is_version(version):
            raise unknown(version, self.where, self.versions())

    def _manifest(self, version: str, digest: str | None = None) -> bytes:
        """A manifest's bytes: from the copy, from those that were read before, or from the bucket."""
        self._check_name(version)
        copy = self._copies.here(version, digest)
        if copy is not None:
            return (copy / MANIFEST).read_bytes()
        file = self._read / f"{version}.json"
        with suppress(OSError, RegistryError):
            data = file.read_bytes()
            check_digest(data, str(file), digest)
            return data
        try:
            data = self._copies.manifest(version)
        except UnknownVersion:
            raise unknown(version, self.where, self.versions()) from None
        check_digest(data, f"{self.where}/{version}/{MANIFEST}", digest)
        replace_durably(file, data)
        for old in sorted(self._read.glob("policy-*.json"), key=os.path.getmtime)[: -self._kept]:
            old.unlink(missing_ok=True)
        return data


def _is_claim(key: str) -> bool:
    return key.startswith(CLAIMS) and key[len(CLAIMS) :].isdecimal()

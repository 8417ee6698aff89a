"""The registry in a bucket of a real S3 server: written once, copied whole, and what is told otherwise."""

import hashlib
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.registry.bucket import BucketRegistry
from deploy.registry.errors import Collected, RegistryAway, RegistryError, UnknownVersion
from deploy.registry.files import CONFIG, MANIFEST, WEIGHTS, file_digest
from deploy.registry.registries import check_place, open_registry
from deploy.registry.s3 import Bucket, Taken, split_url
from deploy.registry.versions import seq_of
from tests.deploy.builders import publish, safetensors
from tests.s3 import Line, S3Server, bucket_url, client, clients_on_a_line, line_to, s3_server

__all__ = ["bucket_url", "s3_server"]

LARGE = 2**16
"""A rank with which an adapter's weights are 786 kB."""


@pytest.fixture
def registry(bucket_url: str, tmp_path: Path) -> BucketRegistry:
    return another(bucket_url, tmp_path / "learner")


def another(url: str, data: Path, copies: int = 32) -> BucketRegistry:
    """The same registry as another machine has it."""
    found = open_registry(data, url, copies=copies)
    assert isinstance(found, BucketRegistry)
    return found


def keys(url: str) -> list[str]:
    name, prefix = split_url(url)
    found = client().list_objects_v2(Bucket=name, Prefix=prefix).get("Contents", [])
    return [each["Key"].removeprefix(prefix) for each in found]


def write(url: str, key: str, content: bytes) -> None:
    """Behind the registry's back."""
    name, prefix = split_url(url)
    client().put_object(Bucket=name, Key=prefix + key, Body=content)


def remove(url: str, *names: str) -> None:
    name, prefix = split_url(url)
    for key in names:
        client().delete_object(Bucket=name, Key=prefix + key)


def copied(data: Path) -> list[str]:
    """The copies that have a name, whole or not, in a data folder."""
    return sorted(p.name for p in (data / "adapter-copies").iterdir() if p.name.startswith("policy-"))


def test_what_one_machine_publishes_another_has_whole(
    registry: BucketRegistry, bucket_url: str, tmp_path: Path
) -> None:
    manifest = publish(registry, tmp_path, b"one")
    files = {f"{manifest.version}/{name}" for name in (WEIGHTS, CONFIG, MANIFEST)}
    assert set(keys(bucket_url)) == files | {"claims/1"}
    engine = another(bucket_url, tmp_path / "engine")
    assert engine.versions() == [manifest.version]
    assert engine.manifest(manifest.version) == manifest
    assert copied(tmp_path / "engine") == [], "a manifest alone needs no copy"
    digest = registry.manifest_digest(manifest.version)
    assert engine.verify(manifest.version, digest) == manifest
    folder = engine.path(manifest.version)
    assert folder == tmp_path / "engine" / "adapter-copies" / manifest.version
    assert (folder / WEIGHTS).read_bytes() == safetensors(b"one")
    assert file_digest(folder / MANIFEST) == digest


def test_numbers_go_on_and_version_0_is_the_first(registry: BucketRegistry, tmp_path: Path) -> None:
    first = publish(registry, tmp_path, b"zero", after_seq=-1)
    assert [publish(registry, tmp_path, b"one").seq for _ in range(2)] == [1, 2]
    assert (first.seq, publish(registry, tmp_path, b"two", after_seq=41).seq) == (0, 42)
    assert list(map(seq_of, registry.versions())) == [0, 1, 2, 42]


def test_two_learners_never_share_a_number(bucket_url: str, tmp_path: Path) -> None:
    def work(number: int) -> None:
        data = tmp_path / f"machine-{number}"
        publish(another(bucket_url, data), data, b"%d" % number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(map(seq_of, another(bucket_url, tmp_path / "reader").versions())) == [1, 2, 3, 4, 5, 6]


def test_an_object_is_written_once(bucket_url: str) -> None:
    bucket = Bucket(bucket_url)
    bucket.put("policy-1-00000000/manifest.json", b"first")
    bucket.put("policy-1-00000000/manifest.json", b"first")  # as a try whose answer was lost
    with pytest.raises(Taken):
        bucket.put("policy-1-00000000/manifest.json", b"second")
    assert bucket.get("policy-1-00000000/manifest.json") == b"first"


def test_a_version_without_a_manifest_does_not_exist(
    registry: BucketRegistry, bucket_url: str, tmp_path: Path
) -> None:
    there, gone = publish(registry, tmp_path, b"one"), publish(registry, tmp_path, b"two")
    remove(bucket_url, f"{gone.version}/{MANIFEST}")  # as a publisher that died before it wrote that
    reader = another(bucket_url, tmp_path / "reader")
    assert reader.versions() == [there.version]
    for ask in (reader.path, reader.manifest, reader.verify, reader.manifest_digest):
        with pytest.raises(UnknownVersion):
            ask(gone.version)
    with pytest.raises(UnknownVersion, match=there.version):
        reader.path("../learner")
    assert publish(registry, tmp_path, b"three").seq == 3, "its number is not given out again"
    assert copied(tmp_path / "reader") == []


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_objects_that_are_not_the_manifests_are_never_a_copy(
    registry: BucketRegistry, bucket_url: str, tmp_path: Path, name: str
) -> None:
    manifest = publish(registry, tmp_path, b"one")
    key, whole = f"{manifest.version}/{name}", (tmp_path / b"one".hex() / name).read_bytes()
    for wrong in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        write(bucket_url, key, wrong)
        reader = another(bucket_url, tmp_path / "reader")
        found = hashlib.sha256(wrong).hexdigest()
        with pytest.raises(RegistryError, match=f"{name} has sha256 {found}.*{manifest.files[name]}"):
            reader.verify(manifest.version)
        assert copied(tmp_path / "reader") == []
    remove(bucket_url, key)
    with pytest.raises(RegistryError, match=f"{name} is missing"):
        reader.verify(manifest.version)
    assert copied(tmp_path / "reader") == []
    write(bucket_url, key, whole)
    assert reader.verify(manifest.version) == manifest


def test_another_manifest_than_was_announced_is_refused(
    registry: BucketRegistry, bucket_url: str, tmp_path: Path
) -> None:
    manifest = publish(registry, tmp_path, b"one")
    digest = registry.manifest_digest(manifest.version)
    forged = manifest.model_copy(update={"parent": "policy-9-00000000"}).model_dump_json().encode()
    write(bucket_url, f"{manifest.version}/{MANIFEST}", forged)
    reader = another(bucket_url, tmp_path / "reader")
    for ask in (reader.manifest, reader.verify):
        with pytest.raises(RegistryError, match=f"{digest} was announced"):
            ask(manifest.version, digest)
    assert copied(tmp_path / "reader") == []


def test_a_manifest_that_leads_out_of_the_folder_is_refused(bucket_url: str, tmp_path: Path) -> None:
    version = "policy-1-00000000"
    write(bucket_url, f"{version}/../outside.json", b"{}")
    write(bucket_url, f"{version}/{MANIFEST}", b'{"files": {"../outside.json": "00"}}')
    with pytest.raises(RegistryError, match="no file of an adapter"):
        another(bucket_url, tmp_path / "reader").path(version)


def test_a_damaged_copy_is_made_anew(registry: BucketRegistry, bucket_url: str, tmp_path: Path) -> None:
    manifest = publish(registry, tmp_path, b"one")
    reader = another(bucket_url, tmp_path / "reader")
    for damaged in (WEIGHTS, MANIFEST):
        file = reader.path(manifest.version) / damaged
        file.write_bytes(file.read_bytes()[:-5])
        digest = registry.manifest_digest(manifest.version)
        assert reader.verify(manifest.version, digest) == manifest
        assert (reader.path(manifest.version) / WEIGHTS).read_bytes() == safetensors(b"one")


def test_the_copies_that_were_asked_for_last_stay(
    registry: BucketRegistry, bucket_url: str, tmp_path: Path
) -> None:
    versions = [publish(registry, tmp_path, b"%d" % n).version for n in range(12)]
    reader = another(bucket_url, tmp_path / "reader", copies=8)
    for version in versions[:8]:
        reader.path(version)
    reader.path(versions[0])  # in use for long
    for version in versions[8:]:
        reader.path(version)
    assert copied(tmp_path / "reader") == sorted([versions[0], *versions[5:]], key=str)


def test_collected_files_are_gone_and_the_manifest_stays(
    registry: BucketRegistry, bucket_url: str, tmp_path: Path
) -> None:
    old, new = publish(registry, tmp_path, b"one"), publish(registry, tmp_path, b"two")
    write(bucket_url, "policy-3-00000000/adapter_config.json", b"{}")
    write(bucket_url, "rollouts/rollout-1-00000000/manifest.json", b"{}")
    registry.collect(old.version)
    assert registry.versions() == [new.version]
    reader = another(bucket_url, tmp_path / "reader")
    assert reader.manifest(old.version) == old
    for ask in (reader.path, reader.verify):
        with pytest.raises(Collected, match=f"{old.version} was collected"):
            ask(old.version)
    assert [key for key in keys(bucket_url) if key.startswith(old.version)] == [
        f"{old.version}/collected.json",
        f"{old.version}/{MANIFEST}",
    ]
    assert registry.strays(before=0.0) == []
    assert [each.key for each in registry.strays(before=float("inf"))] == [
        "policy-3-00000000/adapter_config.json",
        "rollouts/rollout-1-00000000/manifest.json",
    ]


# -- a server that is away, or lets nobody in ---------------------------------------------------------------


def test_while_the_server_is_away_what_is_copied_can_be_used(
    bucket_url: str, s3_server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with clients_on_a_line(s3_server) as line:
        reader = another(bucket_url, tmp_path / "reader")
        known, read, other = (publish(reader, tmp_path, content) for content in (b"one", b"two", b"three"))
        digest = reader.manifest_digest(known.version)
        reader.verify(known.version, digest)
        reader.manifest(read.version)
        line.close()
        fresh = another(bucket_url, tmp_path / "reader")  # a process that was started anew
        with pytest.raises(RegistryAway, match="does not answer"):
            fresh.manifest(other.version)
        assert fresh.away is not None
        with pytest.raises(RegistryAway):
            fresh.versions()
        assert fresh.verify(known.version, digest) == known
        assert fresh.manifest(read.version) == read
        assert caplog.text.count("does not answer") == 1, "it is told once"


def test_who_waits_goes_on_when_the_server_is_back(bucket_url: str, s3_server: S3Server) -> None:
    waited: list[RegistryAway] = []

    with clients_on_a_line(s3_server) as first:
        Bucket(bucket_url).put("a", b"1")
        first.close()  # nobody is reached any more

        def wait(why: RegistryAway) -> None:
            waited.append(why)
            first.open()

        again = Bucket(bucket_url, wait=wait)
        assert again.get("a") == b"1"
        assert [str(why).partition(":")[0] for why in waited] == ["s3"]
        assert again.away is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "does not let us in .*check AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "does not let us in .*check AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "there are no credentials; set AWS_ACCESS"),
    ],
)
def test_who_is_not_let_in_is_told_in_one_line(
    bucket_url: str, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], said: str
) -> None:
    for name, value in changed.items():
        if value:
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name)
    with pytest.raises(RegistryAway, match=said) as caught:
        Bucket(bucket_url).check()
    assert "\n" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_named(bucket_url: str) -> None:
    with pytest.raises(RegistryAway, match="there is no bucket nowhere; make it"):
        Bucket("s3://nowhere/chat").check()


@pytest.mark.parametrize(
    "place", ["s3://", "s3://Bucket", "s3://bucket/a//b", "s3://bucket/../b", "gs://bucket", " "]
)
def test_what_is_no_place_is_refused(place: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="write"):
        check_place(place)


# -- processes that are killed ------------------------------------------------------------------------------


def test_a_publisher_that_is_killed_has_published_nothing(
    bucket_url: str, s3_server: S3Server, tmp_path: Path
) -> None:
    with line_to(s3_server, most_sent=200_000) as line:
        killed_when_held(line, _publish_large, bucket_url, tmp_path)
    reader = another(bucket_url, tmp_path / "reader")
    assert not any(key.endswith(MANIFEST) for key in keys(bucket_url))
    assert "claims/1" in keys(bucket_url), "it had begun"
    assert reader.versions() == []
    assert publish(reader, tmp_path, b"two").seq == 2


def test_a_reader_that_is_killed_leaves_a_draft_that_the_next_one_removes(
    registry: BucketRegistry, bucket_url: str, s3_server: S3Server, tmp_path: Path
) -> None:
    manifest = publish(registry, tmp_path, b"one", rank=LARGE)
    data = tmp_path / "reader"
    with line_to(s3_server, most=200_000) as line:
        killed_when_held(line, _read, bucket_url, data, manifest.version)
    drafts = list((data / "adapter-copies").glob(".draft-*"))
    assert [draft.is_dir() for draft in drafts] == [True], "it was under way"
    assert copied(data) == []
    reader = another(bucket_url, data)
    assert not list((data / "adapter-copies").glob(".draft-*"))
    assert reader.verify(manifest.version) == manifest


def test_nobody_removes_the_draft_of_one_who_lives(
    registry: BucketRegistry, bucket_url: str, s3_server: S3Server, tmp_path: Path
) -> None:
    manifest = publish(registry, tmp_path, b"one", rank=LARGE)
    data = tmp_path / "reader"
    with pytest.MonkeyPatch.context() as told, line_to(s3_server, most=200_000) as line:
        told.setenv("AWS_ENDPOINT_URL_S3", line.url)
        slow = another(bucket_url, data)
        reading = threading.Thread(target=slow.path, args=(manifest.version,))
        reading.start()
        assert line.held.wait(30)
        told.setenv("AWS_ENDPOINT_URL_S3", s3_server.url)
        other = another(bucket_url, data)  # as a process that starts meanwhile
        assert len(list((data / "adapter-copies").glob(".draft-*"))) == 1
        assert other.verify(manifest.version) == manifest
        line.go_on()
        reading.join()
    assert copied(data) == [manifest.version]
    assert slow.verify(manifest.version) == manifest


def killed_when_held(line: Line, work: Callable[..., object], *arguments: object) -> None:
    """Let a process of its own work by the line, and kill it when that stops passing on."""
    process = multiprocessing.get_context("spawn").Process(target=_by, args=(line.url, work, *arguments))
    process.start()
    try:
        assert line.held.wait(60)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -9


def _by(endpoint: str, work: Callable[..., object], *arguments: object) -> None:
    os.environ["AWS_ENDPOINT_URL_S3"] = endpoint
    work(*arguments)


def _publish_large(url: str, scratch: Path) -> None:
    publish(another(url, scratch / "learner"), scratch, b"one", rank=LARGE)


def _read(url: str, data: Path, version: str) -> None:
    another(url, data).path(version)

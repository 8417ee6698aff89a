"""The registry: immutable versions, one rename, nothing but an adapter's files."""

import hashlib
import json
import pickle
import threading
from pathlib import Path

import pytest

from deploy.registry.errors import RegistryError, UnknownVersion
from deploy.registry.files import CONFIG, WEIGHTS
from deploy.registry.manifest import GateNumbers, Manifest
from deploy.registry.registry import Registry
from deploy.registry.versions import seq_of
from tests.deploy.builders import adapter_folder, publish, safetensors


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "adapters", clock=lambda: 1234.5)


def test_a_version_is_its_sequence_number_and_its_digest(registry: Registry, tmp_path: Path) -> None:
    manifest = publish(registry, tmp_path, b"one")
    digest = hashlib.sha256(safetensors(b"one")).hexdigest()
    assert manifest.version == f"policy-1-{digest[:8]}"
    assert manifest.files[WEIGHTS] == digest
    assert set(manifest.files) == {WEIGHTS, CONFIG}
    assert manifest.created_at == 1234.5
    assert registry.manifest(manifest.version) == manifest
    assert registry.verify(manifest.version) == manifest
    assert (registry.path(manifest.version) / WEIGHTS).read_bytes() == safetensors(b"one")


def test_publishing_the_same_files_again_makes_the_next_version(registry: Registry, tmp_path: Path) -> None:
    first, second = publish(registry, tmp_path), publish(registry, tmp_path)
    assert (first.seq, second.seq) == (1, 2)
    assert registry.versions() == [first.version, second.version]


def test_numbers_go_on_after_the_highest_that_is_known(registry: Registry, tmp_path: Path) -> None:
    source = adapter_folder(tmp_path / "a")
    manifest = registry.publish(
        source,
        parent="base",
        base_digest="d",
        rank=8,
        training={},
        offsets={},
        gate=GateNumbers(),
        probes=[],
        after_seq=41,
    )
    assert manifest.seq == 42
    assert publish(registry, tmp_path, b"two").seq == 43


def test_versions_sort_by_number(registry: Registry, tmp_path: Path) -> None:
    versions = [publish(registry, tmp_path, str(i).encode()).version for i in range(11)]
    assert registry.versions() == versions
    assert [seq_of(v) for v in versions] == list(range(1, 12))
    assert seq_of("base") == seq_of("rollout-3-aaaaaaaa") == seq_of("policy-1-aaaaaaaa/..") == 0


def test_two_publishers_never_share_a_number(registry: Registry, tmp_path: Path) -> None:
    for i in range(8):
        adapter_folder(tmp_path / str(i).encode().hex(), str(i).encode())
    threads = [
        threading.Thread(target=publish, args=(Registry(registry.folder), tmp_path, str(i).encode()))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(seq_of, registry.versions())) == list(range(1, 9))


@pytest.mark.parametrize("name", ["optimizer.pt", "adapter_model.bin", "README.md"])
def test_other_files_are_refused(registry: Registry, tmp_path: Path, name: str) -> None:
    source = adapter_folder(tmp_path / b"one".hex())
    (source / name).write_bytes(b"x")
    with pytest.raises(RegistryError, match=name):
        publish(registry, tmp_path)
    assert registry.versions() == []
    assert [e.name for e in registry.folder.iterdir() if e.is_dir()] == [], "no draft is left behind"


def test_a_pickle_by_another_name_is_refused(registry: Registry, tmp_path: Path) -> None:
    source = tmp_path / "evil"
    adapter_folder(source)
    (source / WEIGHTS).write_bytes(pickle.dumps({"weight": [1.0] * 100}))
    with pytest.raises(RegistryError, match="header"):
        _publish_folder(registry, source)


def test_links_and_missing_files_are_refused(registry: Registry, tmp_path: Path) -> None:
    source = adapter_folder(tmp_path / "linked")
    (source / CONFIG).unlink()
    with pytest.raises(RegistryError, match=f"no {CONFIG}"):
        _publish_folder(registry, source)
    (source / CONFIG).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(RegistryError, match="not a safetensors or JSON file"):
        _publish_folder(registry, source)
    with pytest.raises(RegistryError, match="not a folder"):
        _publish_folder(registry, tmp_path / "nowhere")


def test_verify_names_the_file_and_both_digests(registry: Registry, tmp_path: Path) -> None:
    manifest = publish(registry, tmp_path)
    file = registry.path(manifest.version) / CONFIG
    file.write_text('{"r": 9}')
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(RegistryError, match=f"{CONFIG} has sha256 {found}.*{manifest.files[CONFIG]}"):
        registry.verify(manifest.version)
    file.unlink()
    with pytest.raises(RegistryError, match=f"{CONFIG} is missing"):
        registry.verify(manifest.version)


def test_verify_sees_files_that_were_added(registry: Registry, tmp_path: Path) -> None:
    manifest = publish(registry, tmp_path)
    (registry.path(manifest.version) / "extra.json").write_text("{}")
    with pytest.raises(RegistryError, match=r"extra\.json"):
        registry.verify(manifest.version)


@pytest.mark.parametrize("version", ["policy-9-aaaaaaaa", "base", "../adapters", "policy-1-aaaaaaaa/.."])
def test_an_unknown_version_names_the_known_ones(registry: Registry, tmp_path: Path, version: str) -> None:
    known = publish(registry, tmp_path).version
    with pytest.raises(UnknownVersion, match=known):
        registry.path(version)
    with pytest.raises(LookupError):
        registry.manifest(version)


def test_infinite_budgets_survive_the_manifest_file(registry: Registry, tmp_path: Path) -> None:
    manifest = publish(registry, tmp_path, gate=GateNumbers())
    text = (registry.path(manifest.version) / "manifest.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert registry.manifest(manifest.version).gate == GateNumbers()


def _publish_folder(registry: Registry, source: Path) -> Manifest:
    return registry.publish(
        source,
        parent="base",
        base_digest="d",
        rank=8,
        training={},
        offsets={},
        gate=GateNumbers(),
        probes=[],
    )

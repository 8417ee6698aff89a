"""Two real vLLM engines that share no folder, and a real S3 server that brings them what they serve."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench._words import Words
from deploy.engines.client import EngineClient
from deploy.engines.fleet import Fleet
from deploy.engines.lending import lender
from deploy.engines.parity import ParityLimits
from deploy.registry.files import MANIFEST
from learner.rollouts.sampling import RolloutSampler
from tests.conftest import Engine, running_engine
from tests.deploy.test_bucket_registry import another, copied, keys
from tests.deploy.test_fetching import HOSTS, Fetchers
from tests.deploy.test_real_engine import TOLERANCE_NATS, adapters, publish
from tests.s3 import bucket_url, s3_server
from tests.servers import free_port

__all__ = ["adapters", "bucket_url", "s3_server"]

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def far_engine(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a second engine, at another address than the one of all tests."""
    log = tmp_path_factory.mktemp("far") / "engine.log"
    with running_engine(engine.model, log, "--host", "0.0.0.0") as found:
        yield found.url.replace(*HOSTS)


def test_two_engines_serve_what_only_a_bucket_has(
    engine: Engine, far_engine: str, adapters: tuple[Path, Words], bucket_url: str, tmp_path: Path
) -> None:
    _, words = adapters
    registry, port = another(bucket_url, tmp_path / "controller"), free_port()
    urls = (engine.url, far_engine)
    with Fetchers(tmp_path, bucket_url, port) as folders:
        version = publish(
            another(bucket_url, tmp_path / "learner"), adapters, 0, words.words[0].probes
        ).version
        fleet = Fleet(
            [EngineClient(url) for url in urls], registry, ParityLimits(TOLERANCE_NATS), fetch_port=port
        )
        fleet.look()
        began = time.monotonic()
        while len(fleet.proofs()) < len(urls):
            assert fleet.prepare(version, time.time()) == []
        print(f"both engines serve {version} after {time.monotonic() - began:.2f} s")
        assert [copied(folder) for folder in folders] == [[version], [version]]
        assert copied(tmp_path / "controller") == []
        for url, folder in zip(urls, folders, strict=True):
            client = EngineClient(url)
            (card,) = [card for card in cards(client) if card["id"] == version]
            assert card["root"] == str(folder / "adapter-copies" / version)
            (sample,) = client.sample(version, [words.words[0].probes[0].prompt_token_ids], max_tokens=4)
            assert sample.token_ids
            client.close()
        fleet.unload([version])
        fleet.close()

        client = EngineClient(far_engine)
        sampler = RolloutSampler(client, tmp_path / "rollouts", lender(registry, far_engine, port))
        with sampler.serving(lambda folder: save(adapters[0] / "1", folder), 1) as name:
            prompt = words.words[1].probes[0].prompt_token_ids
            (sample,) = sampler.sample(name, [prompt], max_tokens=4, seed="s")
            assert sample.token_ids
        assert name not in client.models()
        client.close()
    assert not any(key.startswith("rollouts/") for key in keys(bucket_url))


def save(source: Path, folder: Path) -> None:
    for file in source.iterdir():
        if file.name != MANIFEST:
            (folder / file.name).write_bytes(file.read_bytes())


def cards(client: EngineClient) -> list[dict[str, str]]:
    """What the engine tells of its models."""
    return client._ask("GET", "/v1/models", lambda found: found["data"])

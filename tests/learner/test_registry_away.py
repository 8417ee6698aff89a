"""What a learner does while the bucket of adapters is away: it waits, says so, and ends when told to."""

import threading
from pathlib import Path

import pytest

from deploy.registry.errors import RegistryAway
from learner import main
from learner.loop.metrics import LearnerMetrics
from learner.main import Patience, registry_of, with_rank
from learner.settings import LearnerSettings
from tests.deploy.builders import publish
from tests.deploy.test_bucket_registry import another
from tests.s3 import S3Server, bucket_url, clients_on_a_line, s3_server

__all__ = ["bucket_url", "s3_server"]


def settings(data: Path, url: str) -> LearnerSettings:
    return LearnerSettings(data=data, model="m", engine="http://127.0.0.1:1", registry=url, fetch_port=8010)


def test_a_learner_goes_on_when_the_registry_is_back(
    bucket_url: str, s3_server: S3Server, tmp_path: Path
) -> None:
    publish(another(bucket_url, tmp_path / "other"), tmp_path, b"one", rank=16)
    metrics = LearnerMetrics()

    class Reopening(threading.Event):
        """Nobody stops the learner; while it waits, the server comes back."""

        def wait(self, timeout: float | None = None) -> bool:
            assert timeout == main.REGISTRY_RETRY_SECONDS
            assert metrics.registry.get_sample_value("hearken_registry_away") == 1
            line.open()
            return False

    with clients_on_a_line(s3_server) as line:
        line.close()
        found = with_rank(settings(tmp_path / "learner", bucket_url), Patience(Reopening(), metrics))
    assert found.rank == 16


def test_a_learner_that_waits_ends_when_it_is_told_to(
    bucket_url: str, s3_server: S3Server, tmp_path: Path
) -> None:
    stop = threading.Event()
    stop.set()
    with clients_on_a_line(s3_server) as line:
        line.close()
        registry = registry_of(settings(tmp_path, bucket_url), Patience(stop, LearnerMetrics()))
        with pytest.raises(RegistryAway):
            publish(registry, tmp_path, b"one")
    assert another(bucket_url, tmp_path / "other").versions() == []

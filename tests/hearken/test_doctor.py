"""`hearken doctor` on services of which a part is missing: it names the part and what to do."""

import json
import socket
import time
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from bench._ports import free_port
from hearken.base import checks
from hearken.cli import main
from hearken.operate.doctor import Finding, Service, _clock, look
from hearken.settings import ServiceSettings
from tests.deploy.world import World
from tests.feedback.test_kafka_security import Files
from tests.s3 import bucket_url, s3_server
from tests.servers import KAFKA_USER, KafkaServer

__all__ = ["bucket_url", "s3_server"]


def service(world: World, gateway: str = "http://127.0.0.1:1", **changes: object) -> Service:
    engines = tuple(engine.url for engine in world.engines)
    options: dict[str, object] = {"data": world.folder, "engines": engines, **changes}
    return Service(ServiceSettings(**options), gateway)  # type: ignore[arg-type]


def found(service: Service) -> dict[str, Finding]:
    return {each.part: each for each in look(service)}


def test_what_is_there_is_well(world: World) -> None:
    version = world.offer().version
    world.pass_time(until="started", users=0)
    world.now += 2
    world.tick()  # it tells how things stand, once a second
    parts = found(service(world))
    states = {part: each.state for part, each in parts.items() if part not in ("disk", "gateway", "gateways")}
    assert states == {
        "log": "ok", "vault": "ok", "engine": "ok", "controller": "ok", "learner": "doubt",
    }  # fmt: skip
    assert version in parts["engine"].text
    assert f"{version} has been on trial" in parts["controller"].text
    assert "no checkpoint" in parts["learner"].text


def test_each_part_that_is_away_is_named_with_what_to_do(world: World) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    parts = found(service(world, nobody, engines=(nobody,), redis="redis://127.0.0.1:1/0"))
    wrong = {part: each for part, each in parts.items() if each.state == "wrong"}
    assert set(wrong) == {"redis", "engine", "gateway", "controller"}
    assert nobody in wrong["engine"].text
    assert "--set service.engines" in wrong["engine"].remedy
    assert "no Redis answers" in wrong["redis"].text


def test_a_bucket_and_what_fetches_from_it_are_looked_at(
    world: World, bucket_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = service(world, registry=bucket_url, fetch_port=free_port())
    parts = found(told)
    assert parts["registry"] == Finding("registry", "ok", f"0 versions in {bucket_url}")
    assert parts["fetch"].state == "wrong"
    assert "start `hearken fetch`" in parts["fetch"].remedy
    assert not (world.folder / "adapter-copies").exists(), "a look changes nothing"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    assert "does not answer" in found(told)["registry"].text


def test_a_folder_that_is_none_ends_the_look(tmp_path: Path) -> None:
    (only,) = look(Service(ServiceSettings(data=tmp_path), "http://127.0.0.1:1"))
    assert (only.part, only.state) == ("data", "wrong")
    assert "not a service's data folder" in only.text


def test_a_folder_of_a_service_with_kafka_needs_its_broker(tmp_path: Path) -> None:
    checks.ensure_secret(tmp_path)
    parts = found(Service(ServiceSettings(data=tmp_path, engines=()), "http://127.0.0.1:1"))
    assert parts["log"].remedy == "name the broker of this service with --kafka"
    assert not (tmp_path / "log.db").exists()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        kafka = ServiceSettings(data=tmp_path, engines=(), kafka=address)
        parts = found(Service(kafka, "http://127.0.0.1:1"))
    assert parts["kafka"].state == "wrong"
    assert address in parts["kafka"].text


@pytest.mark.kafka
def test_a_broker_that_takes_the_client_is_well_and_gets_no_topics(
    tmp_path: Path, kafka_server: KafkaServer
) -> None:
    checks.ensure_secret(tmp_path)
    client = tmp_path / "client.properties"
    client.write_text(f"bootstrap.servers={kafka_server.bootstrap}\ntopic.prefix={tmp_path.name}.\n")
    told = ServiceSettings(data=tmp_path, engines=(), kafka=str(client))
    assert found(Service(told, "http://127.0.0.1:1"))["kafka"].state == "ok"
    admin = KafkaAdminClient(bootstrap_servers=kafka_server.bootstrap)
    assert not [topic for topic in admin.list_topics() if topic.startswith(tmp_path.name)]
    admin.close()


@pytest.mark.kafka
def test_a_broker_that_refuses_the_password_is_named(tmp_path: Path, kafka_server: KafkaServer) -> None:
    checks.ensure_secret(tmp_path)
    client = Files(kafka_server, "", tmp_path).sasl(
        "SCRAM-SHA-512", f"sasl.username={KAFKA_USER}\nsasl.password=wrong\n"
    )
    told = ServiceSettings(data=tmp_path, engines=(), kafka=str(client))
    refused = found(Service(told, "http://127.0.0.1:1"))["kafka"]
    assert refused.state == "wrong"
    assert f"the user '{KAFKA_USER}' or its password" in refused.text


def test_clocks_that_are_apart_are_told() -> None:
    assert list(_clock("gateway", time.time() + 1)) == []
    (ahead,) = _clock("redis", time.time() + 90)
    (behind,) = _clock("redis", time.time() - 90)
    assert "is 90 s ahead of this one" in ahead.text
    assert "is 90 s behind this one" in behind.text


def test_the_command_ends_with_1_where_something_is_wrong(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    port = free_port()
    arguments = ["doctor", "--data", str(world.folder), "--set", f"gateway.port={port}"]
    assert main([*arguments, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    engine = next(each for each in told if each["part"] == "engine")
    assert f"127.0.0.1:{port + 1}" in engine["text"]  # where `hearken up` runs it
    assert {"part": "gateway", "state": "wrong"}.items() <= next(
        each for each in told if each["part"] == "gateway"
    ).items()
    assert main(arguments) == 1
    lines = capsys.readouterr().out
    assert "wrong  gateway" in lines
    assert "-> start it, or name it with --set gateway.host, gateway.port" in lines

"""What `hearken up` is going to run: the settings of all roles, and the ports and addresses that it decides.

engine (vLLM)  port + 1     controller  metrics on port + 3
gateway        port         learner     metrics on port + 2

With more than one engine, the second is on port + 4, the third on port + 5, and so on. The file of settings
may put the metrics elsewhere.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hearken.config.layers import Given, Layer
from hearken.config.resolve import Config
from hearken.settings import EngineSettings, ServiceSettings
from serve.settings import GatewaySettings


@dataclass(frozen=True, slots=True)
class UpSettings:
    """What `hearken up` runs: the settings that hold, and the ports and addresses that follow from them."""

    config: Config
    service: ServiceSettings
    gateway: GatewaySettings
    engine: EngineSettings
    unused: tuple[str, ...] = ()  # sentences about what was asked for and means nothing here

    @classmethod
    def of(cls, config: Config) -> "UpSettings":
        """With what `up` decides itself: where its processes find each other.

        Raises UsageError for what a role would refuse, before anything is started.
        """
        service, engine = config.build("service"), config.build("engine")
        unused = _unused(config)
        config = config.over(_decided(config, service, engine))
        config.build("controller")
        tiny = Given("the tiny model", "hearken up")
        (config if service.model else config.over({"learner.model": tiny})).build("learner")
        return cls(config, config.build("service"), config.build("gateway"), engine, unused)

    @property
    def data(self) -> Path:
        return self.service.folder

    @property
    def seed(self) -> int:
        return self.service.seed

    @property
    def kafka(self) -> str | None:
        return self.service.kafka

    @property
    def engine_ports(self) -> tuple[int, ...]:
        return _engine_ports(self.gateway.port, self.engine.count)

    @property
    def learner_port(self) -> int:
        port: int = self.config.get("learner.metrics_port").value
        return port

    @property
    def controller_port(self) -> int:
        port: int = self.config.get("controller.metrics_port").value
        return port

    @property
    def ports(self) -> tuple[int, ...]:
        """Gateway, learner metrics, controller metrics, engines."""
        return (self.gateway.port, self.learner_port, self.controller_port, *self.engine_ports)

    @property
    def engine_urls(self) -> tuple[str, ...]:
        return self.gateway.engines

    @property
    def engine_url(self) -> str:
        """The first engine, on which the learner samples."""
        return self.engine_urls[0]

    @property
    def metrics_urls(self) -> tuple[str, str, str]:
        """Where gateway, learner and controller show their metrics."""
        return (
            self.url,
            f"http://127.0.0.1:{self.learner_port}",
            f"http://127.0.0.1:{self.controller_port}",
        )

    @property
    def url(self) -> str:
        """Where this machine reaches the gateway."""
        host = self.gateway.host
        return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::', '') else host}:{self.gateway.port}"


def _decided(config: Config, service: ServiceSettings, engine: EngineSettings) -> Layer:
    """Where the processes find each other and their data."""
    port = config.get("gateway.port").value
    urls = tuple(f"http://127.0.0.1:{each}" for each in _engine_ports(port, engine.count))
    values: dict[str, Any] = {
        "service.data": service.folder,
        "gateway.engines": urls,
        "controller.engines": urls,
        "learner.engine": urls[0],
    }
    for path, free in (("learner.metrics_port", port + 2), ("controller.metrics_port", port + 3)):
        if config.asked(path) is None:
            values[path] = free
    return {path: Given(value, "hearken up") for path, value in values.items()}


def _unused(config: Config) -> tuple[str, ...]:
    """What was asked for and means nothing here, as `up` serves and trains one model on its own engines."""
    sentences = [
        f"{given.origin}: these engines are not used, as `hearken up` runs its own"
        for path in ("gateway.engines", "controller.engines", "learner.engine")
        if (given := config.asked(path)) is not None
    ]
    if (given := config.asked("learner.model")) is not None and not config.is_shared("learner.model"):
        sentences.append(f"{given.origin}: this model is not used; write it in [service]")
    return tuple(dict.fromkeys(sentences))


def _engine_ports(port: int, count: int) -> tuple[int, ...]:
    return (port + 1, *range(port + 4, port + 3 + count))

"""`hearken doctor`: is everything there that a service needs, and if not, what has to be done?

Every part is looked at from here, with the addresses of the file of settings, and none is changed. A part
that is not reached does not keep the others from being looked at.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import httpx

from deploy.engines.client import EngineClient, EngineError
from deploy.engines.discovery import looked_up
from deploy.engines.fetcher import Fetcher
from deploy.engines.key import take_engine_key
from deploy.history import leases
from deploy.history.notice import read_notice
from deploy.registry.errors import RegistryAway
from deploy.registry.registries import is_bucket, open_registry
from deploy.registry.versions import is_version
from feedback.core.events import COMPLETIONS, FEEDBACK
from feedback.core.log import EventLog, LogError
from feedback.opening import open_log, open_sealer, open_shared
from feedback.shared import SharedUnavailable
from hearken.base.checks import check_redis, check_registry, check_service, prepare_data
from hearken.base.errors import UsageError
from hearken.config.resolve import Config
from hearken.data.audit import read_ledger
from hearken.settings import ServiceSettings

State = Literal["ok", "doubt", "wrong"]

SECONDS = 3.0
"""How long a part may take to answer."""

LITTLE_BYTES, TOO_LITTLE_BYTES = 5 << 30, 500 << 20
"""Free space at which there is doubt, and at which votes are about to be refused."""

SKEW_SECONDS = 5.0
"""How far clocks may be apart: receipts, tokens and Kafka's records carry times."""

BEHIND_SECONDS = 600.0
"""How old the oldest vote may be that the learner has not read."""


class Finding(NamedTuple):
    """What was found of one part. remedy: what to do, "" where nothing has to be done."""

    part: str
    state: State
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Service:
    """Where a service's parts are."""

    shared: ServiceSettings
    gateway: str  # its base URL

    @classmethod
    def of(cls, config: Config) -> "Service":
        """From the settings that hold."""
        host = config.get("gateway.host").value
        host, port = "127.0.0.1" if host in ("0.0.0.0", "::") else host, config.get("gateway.port").value
        shared: ServiceSettings = config.build("service")
        if config.asked("service.engines") is None:  # `hearken up` runs its own there
            shared = replace(shared, engines=(f"http://127.0.0.1:{port + 1}",))
        return cls(shared, f"http://{host}:{port}")


def doctor(service: Service, *, as_json: bool = False) -> int:
    """Print what was found; 1 where something is wrong."""
    found = list(look(service))
    if as_json:
        print(json.dumps([each._asdict() for each in found], indent=1))
    else:
        print("\n".join(map(_line, found)))
    return 1 if any(each.state == "wrong" for each in found) else 0


def look(service: Service) -> Iterator[Finding]:
    """All parts, one after the other. Without a data folder there is nothing else to look at."""
    folder = service.shared.folder
    try:
        check_service(folder)
        prepare_data(folder)
    except UsageError as error:
        yield Finding("data", "wrong", str(error), "start it once with `hearken up`, or name its folder")
        return
    take_engine_key(folder)
    for part in (_disk, _log, _vault, _kafka, _redis, _registry, _engines, _gateway, _controller):
        yield from part(service)


def _line(found: Finding) -> str:
    remedy = f"\n{'':13}-> {found.remedy}" if found.remedy else ""
    return f"{found.state:<6} {found.part:<11} {found.text}{remedy}"


# -- what is on this machine --------------------------------------------------------------------------------


def _disk(service: Service) -> Iterator[Finding]:
    free = shutil.disk_usage(service.shared.folder).free
    text = f"{free / (1 << 30):.1f} GiB free at {service.shared.folder}"
    remedy = "make room: a full disk refuses votes, and loses none that was acknowledged"
    if free < TOO_LITTLE_BYTES:
        yield Finding("disk", "wrong", text, remedy)
    elif free < LITTLE_BYTES:
        yield Finding("disk", "doubt", text, remedy)
    else:
        yield Finding("disk", "ok", text)


def _log(service: Service) -> Iterator[Finding]:
    folder = service.shared.folder
    if service.shared.kafka is not None:
        yield from _learner(service, None)
        return
    if not (folder / "log.db").exists():
        remedy = "name the broker of this service with --kafka"
        yield Finding("log", "wrong", f"{folder} has no log.db", remedy)
        return
    try:
        with closing(open_log(folder, None, "operator")) as log:
            end = log.end([COMPLETIONS, FEEDBACK], SECONDS)
            yield Finding("log", "ok", f"{sum(end.values()):,} answers and votes")
            yield from _learner(service, log)
    except LogError as error:
        yield Finding("log", "wrong", str(error), "docs/durability.md says what a damaged log needs")


def _learner(service: Service, log: EventLog | None) -> Iterator[Finding]:
    """log: None where it is a broker's."""
    saved = service.shared.folder / "learner" / "checkpoint" / "ledger.json"
    ledger = read_ledger(service.shared.folder)
    if ledger is None:
        text = f"it has no checkpoint at {saved.parent.parent}"
        yield Finding("learner", "doubt", text, "start `hearken learner`; on another machine look there")
        return
    minutes = (time.time() - _saved_at(saved)) / 60
    text = f"its newest checkpoint is {minutes:.0f} min old, {ledger['labels']:,} votes used"
    count, age = (0, 0.0) if log is None else log.behind([FEEDBACK], ledger["cursor"])
    if age <= BEHIND_SECONDS:
        yield Finding("learner", "ok", text)
        return
    text += f"; {count:,} are not learned from yet, the oldest for {age / 60:.0f} min"
    yield Finding("learner", "doubt", text, "see whether it runs, and has a core of its own")


def _saved_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # the next one takes its place just now
        return time.time()


def _vault(service: Service) -> Iterator[Finding]:
    with closing(open_sealer(service.shared.folder)) as sealer:
        problem = sealer.problem()
    if problem is None:
        yield Finding("vault", "ok", "texts can be sealed and opened")
    else:
        yield Finding(
            "vault", "wrong", problem, "mount the volume that has the users' keys (docs/privacy.md)"
        )


# -- servers --------------------------------------------------------------------------------------


def _kafka(service: Service) -> Iterator[Finding]:
    told = service.shared.kafka
    if told is None:
        return
    from feedback.kafka.settings import KafkaSettingsError, read_kafka
    from feedback.kafka.topics import KafkaTopics

    try:
        topics = KafkaTopics(read_kafka(told), wanted={})  # who writes to topics makes them
    except KafkaSettingsError as error:
        yield Finding("kafka", "wrong", str(error), "docs/kafka.md says what is in the file")
        return
    if not topics.answers():
        text = f"no broker accepts a connection at {topics.bootstrap}"
        yield Finding("kafka", "wrong", text, "start it; events wait in the outbox until then")
    elif (refused := topics.refusal()) is not None:
        yield Finding("kafka", "wrong", str(refused))
    else:
        yield Finding("kafka", "ok", "a broker answers, and takes this client")


def _redis(service: Service) -> Iterator[Finding]:
    url = service.shared.redis
    if url is None:
        return
    try:
        check_redis(url)
    except UsageError as error:
        yield Finding("redis", "wrong", str(error))
        return
    from feedback.shared import redis_client

    with closing(redis_client(url, SECONDS)) as client:
        seconds, _ = client.time()
    yield Finding("redis", "ok", "answers")
    yield from _clock("redis", float(seconds))


def _registry(service: Service) -> Iterator[Finding]:
    """Of a registry in a bucket; a folder is looked at by those that read it."""
    told = service.shared
    if not is_bucket(told.registry):
        return
    try:
        check_registry(told.registry, told.fetch_port)
        with tempfile.TemporaryDirectory() as scratch:
            versions = open_registry(Path(scratch), told.registry, told.registry_copies).versions()
        yield Finding("registry", "ok", f"{len(versions)} versions in {told.registry}")
    except (UsageError, RegistryAway) as error:
        yield Finding(
            "registry", "wrong", str(error), "see docs/registry.md; candidates wait until it answers"
        )
    for engine in looked_up(told.engines).urls if told.fetch_port is not None else ():
        fetcher = Fetcher(engine, told.fetch_port or 0)
        if fetcher.answers(SECONDS):
            yield Finding("fetch", "ok", f"{fetcher.url} answers")
        else:
            remedy = f"start `hearken fetch` on the host of {engine}, at an address that is reached from here"
            yield Finding("fetch", "wrong", f"nothing answers at {fetcher.url}", remedy)


def _engines(service: Service) -> Iterator[Finding]:
    remedy, found = "start it, or name its URL with --set service.engines", looked_up(service.shared.engines)
    for name, why in found.problems.items():
        yield Finding("engine", "wrong", f"{name} {why}", "put the name right with --set service.engines")
    for url in found.urls:
        client = EngineClient(url, timeout=SECONDS)
        try:
            names = client.models()
        except EngineError as error:
            yield Finding("engine", "wrong", str(error), remedy)
            continue
        finally:
            client.close()
        policies = sorted(name for name in names if is_version(name))
        yield Finding("engine", "ok", f"{url} serves the base and {', '.join(policies) or 'no policy'}")


def _gateway(service: Service) -> Iterator[Finding]:
    try:
        answer = httpx.get(f"{service.gateway}/readyz", timeout=SECONDS)
    except httpx.HTTPError as error:
        text = f"{service.gateway} does not answer: {error or type(error).__name__}"
        yield Finding("gateway", "wrong", text, "start it, or name it with --set gateway.host, gateway.port")
        return
    if answer.status_code == 200:
        yield Finding("gateway", "ok", f"{service.gateway} is ready")
    else:
        yield Finding("gateway", "wrong", f"{service.gateway} is not ready: {_reasons(answer)}")
    if "date" in answer.headers:
        yield from _clock("gateway", parsedate_to_datetime(answer.headers["date"]).timestamp())


def _reasons(answer: httpx.Response) -> str:
    try:
        told: Any = answer.json()
        return "; ".join(map(str, told["reasons"]))
    except (ValueError, KeyError, TypeError):
        return f"it answers with {answer.status_code}"


def _clock(part: str, theirs: float) -> Iterator[Finding]:
    apart = theirs - time.time()
    if abs(apart) > SKEW_SECONDS:
        side = "ahead of" if apart > 0 else "behind"
        text = f"the clock of the {part} is {abs(apart):.0f} s {side} this one"
        yield Finding("clock", "wrong", text, "let both follow one time server (chrony, systemd-timesyncd)")


# -- processes that tell of themselves ------------------------------------------------------------


def _controller(service: Service) -> Iterator[Finding]:
    try:
        with closing(open_shared(service.shared.folder, service.shared.redis)) as store:
            notice, gateways = read_notice(store), leases.read(store)
    except SharedUnavailable as error:
        yield Finding("shared", "wrong", str(error), "give the same --redis as to the service's parts")
        return
    if notice is None:
        text = "none has told anything for 15 s"
        yield Finding(
            "controller", "wrong", text, "start `hearken controller`; without one no policy is released"
        )
    else:
        yield Finding("controller", "ok", " ".join(notice.why))
    if gateways is not None and not gateways:
        text = "none holds a lease on the policies that it serves"
        yield Finding("gateways", "doubt", text, "with Redis, give it to gateways and here alike")

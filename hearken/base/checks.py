"""What is checked before anything is started, so that a mistake costs one clear line and no waiting."""

import errno
import importlib.util
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.registry.registries import is_bucket
from feedback.core import files
from feedback.core.secret import load_secret
from hearken.base.errors import UsageError


def check_port(host: str, port: int, flag: str = "--port") -> None:
    """Raises UsageError when a port cannot be listened on. `flag` is the one that would change it."""
    if not 1 <= port <= 65_535:
        raise UsageError(f"port {port} does not exist; ports go from 1 to 65535 ({flag} N)")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise UsageError(f"host {host} is unknown: {error.strerror} (--host ADDRESS)") from error
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise UsageError(_why_not(error, host, port, flag)) from error


def _why_not(error: OSError, host: str, port: int, flag: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use by another program; free it or pass {flag} N"
    if error.errno == errno.EACCES:
        return f"port {port} is reserved for the system; pass {flag} N with N above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine; pass --host 127.0.0.1 or 0.0.0.0"
    return f"cannot listen on {host}:{port}: {error.strerror}"


def prepare_data(folder: Path) -> None:
    """Make the data folder if need be. Raises UsageError when it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UsageError(f"data folder {folder} cannot be written: {error.strerror}") from error


def check_service(folder: Path) -> None:
    """Raises UsageError for a folder that is not a service's data folder."""
    if not (folder / "secret").exists():
        raise UsageError(
            f"{folder} is not a service's data folder; name the one of `hearken up` with --data DIR"
        )


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the data folder for one service at a time. The kernel lets go of it however the process ends.

    Raises UsageError when another `hearken up` or `hearken demo` runs on the folder.
    """
    try:
        with files.only_one(folder / "up.lock"):
            yield
    except files.Held as held:
        raise UsageError(
            f"another hearken (process {held.holder}) runs on {folder}; stop it or pass another --data DIR"
        ) from None


def ensure_secret(folder: Path) -> None:
    """Make the service's signing secret, 32 random bytes that only its owner can read, if it has none.

    Raises UsageError when there is one that is too short to sign with.
    """
    path = folder / "secret"
    if len(load_secret(path)) < 16:
        raise UsageError(
            f"{path} holds fewer than 16 bytes and cannot sign; delete it for a new one "
            "(feedback on older answers is then refused)"
        )


def check_redis(url: str) -> None:
    """Raises UsageError when no Redis answers at `url`."""
    import redis

    try:
        client = redis.Redis.from_url(url, socket_connect_timeout=2.0, socket_timeout=2.0)
    except ValueError as error:
        raise UsageError(f"--redis {url} is not a Redis URL; write redis://HOST:6379/0 ({error})") from error
    try:
        client.ping()
    except redis.RedisError as error:
        raise UsageError(
            f"no Redis answers at {url} ({error}); start it, or leave out --redis to do without"
        ) from error
    finally:
        client.close()


def check_registry(place: str | None, fetch_port: int | None) -> None:
    """Raises UsageError where the registry cannot be used as it is set, whatever its server says."""
    if not is_bucket(place):
        if fetch_port is not None:
            raise UsageError(
                f"fetch_port is {fetch_port}, and the registry is a folder, which engines read themselves; "
                "leave it out, or set service.registry to s3://BUCKET/PREFIX"
            )
    elif importlib.util.find_spec("botocore") is None:
        raise UsageError(f"the registry is {place}, which needs a client of S3: pip install 'hearken[s3]'")


def kafka_warning(told: str) -> str | None:
    """A line of warning when none of Kafka's brokers listens: that is allowed, the outbox bridges it.

    `told`: addresses or a file of client settings. Raises UsageError when it is neither, or a wrong file.
    """
    from feedback.kafka.settings import KafkaSettingsError, read_kafka

    try:
        settings = read_kafka(told)
    except KafkaSettingsError as error:
        raise UsageError(f"--kafka: {error}") from error
    why = None
    for address in settings.addresses:
        try:
            socket.create_connection(address, timeout=2.0).close()
            return None
        except OSError as error:
            why = error.strerror or error
    return (
        f"warning: no Kafka answers at {settings.bootstrap} ({why}); starting anyway, "
        "events wait in the outbox until it does"
    )

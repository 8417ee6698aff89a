"""Engines behind a DNS name: each of its addresses is an engine, as with a headless Service of Kubernetes.

An engine that is new is looked at like one that was restarted, and one whose address is gone gets no more
requests. A look-up that fails takes no engine away: whether one answers is seen by asking it, and a name
server that is away must not end a service whose engines are well.
"""

import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

ENGINES = (
    "base URLs of the vLLM servers, which all serve every adapter in use; dns://NAME:PORT for all addresses "
    "of a name, which may come and go (docs/engines.md)"
)
"""What the settings of gateway and controller say of their engines."""

SCHEME = "dns://"

LOOKUP_SECONDS = 2.0
"""The time between two look-ups of a name. A name server has its answer for some seconds anyway."""

Resolve = Callable[[str, int], Iterable[str]]
"""The IP addresses of a host, for a port. Raises `OSError` where they cannot be had."""


def addresses(host: str, port: int) -> list[str]:
    """The addresses that the machine's own resolver gives. Raises `OSError`."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def is_name(engine: str) -> bool:
    """Whether an engine of the settings is a name to look up, and not a URL."""
    return engine.startswith(SCHEME)


def check_engines(engines: Sequence[str]) -> None:
    """Raises `ValueError`, which says what would be right, for a list of engines that cannot be used."""
    if not engines:
        raise ValueError("no engines: name at least one vLLM server, like http://127.0.0.1:8001")
    for engine in engines:
        if is_name(engine):
            _host_and_port(engine)
        elif not engine.startswith(("http://", "https://")):
            raise ValueError(
                f"engine {engine!r} is not a URL; write it like http://127.0.0.1:8001, or "
                "dns://NAME:PORT for all addresses of a name"
            )
    if len(set(engines)) != len(engines):
        raise ValueError(f"an engine is named twice: {', '.join(engines)}")


def check_one_engine(engine: str) -> None:
    """Raises `ValueError` where a setting has to mean one engine, and is a name for any number of them."""
    if is_name(engine):
        raise ValueError(
            f"engine is {engine!r}, any number of engines; the learner samples from one, where its policy is "
            "loaded: name it by its URL, like http://127.0.0.1:8001"
        )


def _host_and_port(name: str) -> tuple[str, int]:
    """Raises `ValueError`."""
    try:
        parts = urlsplit(name)
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is no number
        host, port = None, None
    if not host or not port or name != f"{SCHEME}{parts.netloc}" or "@" in parts.netloc:
        raise ValueError(f"engine {name!r} must be like dns://vllm.chat.svc:8000: a name and a port, no more")
    return host, port


class Discovery:
    """The engines that there are now: those listed as URLs, and those behind names.

    `urls` and `problems` are replaced and never changed, so threads may read them while another one looks.
    The URLs of a name are `http://ADDRESS:PORT`. Where it has addresses of both families those of IPv4 count,
    as both may lead to the same engine.
    """

    def __init__(self, engines: Sequence[str], resolve: Resolve = addresses) -> None:
        self._listed = tuple(engine.rstrip("/") for engine in engines if not is_name(engine))
        self._known: dict[str, tuple[str, ...]] = {name: () for name in engines if is_name(name)}
        self._resolve = resolve
        self.problems: Mapping[str, str] = MappingProxyType(dict.fromkeys(self._known, "not looked up yet"))
        self.urls = self._listed

    @property
    def names(self) -> tuple[str, ...]:
        """The names that are looked up."""
        return tuple(self._known)

    def look(self) -> None:
        """Look up all names. It waits for the name server: seconds, where that is away."""
        problems = {}
        for name, known in self._known.items():
            found, problem = self._addresses(name)
            if problem is None and found != known:
                logger.info("%s: engines are %s", name, ", ".join(found))
                self._known[name] = found
            elif problem is not None:
                problems[name] = problem
                if self.problems.get(name) != problem:
                    logger.warning("%s: %s; %d engines stay as known", name, problem, len(known))
        self.problems = MappingProxyType(problems)
        behind = (url for urls in self._known.values() for url in urls)
        self.urls = tuple(dict.fromkeys((*self._listed, *behind)))

    def _addresses(self, name: str) -> tuple[tuple[str, ...], str | None]:
        """The URLs of a name, and why there are none."""
        host, port = _host_and_port(name)
        try:
            found = [ipaddress.ip_address(address) for address in self._resolve(host, port)]
        except (OSError, ValueError) as error:  # a ValueError where a part of the name is too long
            return (), f"cannot be looked up: {error}"
        if not found:
            return (), "has no addresses"
        family = min(address.version for address in found)
        mine = sorted({address for address in found if address.version == family}, key=int)
        return tuple(f"http://[{a}]:{port}" if family == 6 else f"http://{a}:{port}" for a in mine), None

    def run(self, stop: threading.Event) -> None:
        """Look at once, and again and again until `stop`."""
        while True:
            self.look()
            if stop.wait(LOOKUP_SECONDS):
                return


def looked_up(engines: Sequence[str]) -> Discovery:
    """What there is behind some engines of the settings now."""
    discovery = Discovery(engines)
    discovery.look()
    return discovery

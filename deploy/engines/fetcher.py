"""Asking the `hearken fetch` beside an engine for an adapter's files."""

import json
from urllib.parse import urlsplit

import httpx

from deploy.engines.key import engine_headers
from deploy.registry.errors import RegistryAway, RegistryError

PATH = "/v1/adapters"
"""Where it is asked: {"name": an adapter's, "manifest": the sha256 of its manifest}."""

PATIENCE_SECONDS = 10.0
"""How long it works on a request before it answers that it is not done yet."""

_SECONDS = 2 * PATIENCE_SECONDS


class Fetcher:
    """A client of the `hearken fetch` on `port` of the host of an engine (its URL)."""

    def __init__(self, engine: str, port: int) -> None:
        parts = urlsplit(engine)
        host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
        self.url = f"http://{host}:{port}"

    def answers(self, seconds: float) -> bool:
        """Whether it answers within some seconds."""
        try:
            return httpx.get(f"{self.url}/health", timeout=seconds, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def bring(self, name: str, digest: str) -> str:
        """The path at which the engine finds an adapter. digest: of its manifest.

        Raises `RegistryError` where the files are not as the manifest says, and `RegistryAway` where they are
        not there yet: ask again.
        """
        try:
            answer = httpx.post(
                self.url + PATH,
                json={"name": name, "manifest": digest},
                headers=engine_headers(),
                timeout=_SECONDS,
                trust_env=False,
            )
        except httpx.HTTPError as error:
            raise RegistryAway(
                f"no `hearken fetch` answers at {self.url}: {error or type(error).__name__}"
            ) from error
        try:
            found = json.loads(answer.content)
            told = str(found["path" if answer.status_code == 200 else "message"])
        except (ValueError, LookupError, TypeError) as error:
            raise RegistryAway(f"{self.url} does not answer as `hearken fetch` does") from error
        if answer.status_code == 200:
            return told
        if answer.status_code == 422:
            raise RegistryError(told)
        raise RegistryAway(f"{self.url}: {told}")

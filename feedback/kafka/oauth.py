"""Tokens for SASL OAUTHBEARER, by OAuth's client credentials (RFC 6749, section 4.4)."""

import threading
import time
from typing import Any

import httpx
from kafka.net.sasl.oauth import AbstractTokenProvider

_TIMEOUT_SECONDS = 5.0
_EARLY = 0.8  # of a token's life: then a new one is fetched


class TokenRefused(Exception):
    """The token endpoint gives no token; the message says why."""


class ClientCredentials(AbstractTokenProvider):  # type: ignore[misc]  # kafka-python has no types
    """Fetches a token at `url` and keeps it until most of its life is over. Safe for several threads.

    `ca`: PEM file of the authorities that may vouch for the endpoint; None: the system's, which otherwise
    count as well.
    """

    def __init__(self, url: str, client: str, secret: str, *, scope: str | None, ca: str | None) -> None:
        super().__init__()
        self.url, self.client = url, client
        self._form = {"grant_type": "client_credentials"} | ({"scope": scope} if scope else {})
        self._secret, self._ca = secret, ca
        self._lock = threading.Lock()
        self._token = ""
        self._until = float("-inf")

    def token(self) -> str:
        """A token that is valid now. Raises `TokenRefused`."""
        with self._lock:
            if time.monotonic() >= self._until:
                told = self._fetch()
                self._token = told["access_token"]
                self._until = time.monotonic() + _EARLY * float(told.get("expires_in", 300))
            return self._token

    def _fetch(self) -> dict[str, Any]:
        context = httpx.create_ssl_context()
        if self._ca is not None:
            context.load_verify_locations(self._ca)
        try:
            with httpx.Client(verify=context, timeout=_TIMEOUT_SECONDS) as http:
                answer = http.post(self.url, data=self._form, auth=(self.client, self._secret))
        except httpx.HTTPError as error:
            raise TokenRefused(
                f"the token endpoint {self.url} (sasl.oauthbearer.token.endpoint.url) does not answer: "
                f"{error}"
            ) from error
        try:
            told: dict[str, Any] = answer.json()
            if answer.status_code == 200 and isinstance(told["access_token"], str):
                return told
        except (ValueError, KeyError, TypeError):
            pass
        raise TokenRefused(
            f"the token endpoint {self.url} answers {answer.status_code} {answer.text[:200]!r} to the client "
            f"{self.client!r}; see sasl.oauthbearer.client.id and .secret"
        )

"""The flags about who may use a service and what it keeps of them, from the command line to the gateway."""

import argparse
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hearken.errors import UsageError

if TYPE_CHECKING:
    from serve.keys import Consent


@dataclass(frozen=True, slots=True)
class AccessFlags:
    """What `hearken up` and `hearken gateway` were told about keys, limits, origins, votes and privacy."""

    keys: Path | None = None
    limits: tuple[str, ...] = ()  # "NAME=N"
    cors_origins: tuple[str, ...] = ()
    feedback_reasons: tuple[str, ...] = ()
    consent: "Consent" = "given"
    redact: str = "none"

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "AccessFlags":
        """From parsed arguments; a command that lacks the flags (`demo`) has none of them."""
        keys: Path | None = getattr(arguments, "keys", None)
        return cls(
            None if keys is None else keys.expanduser().resolve(),
            tuple(getattr(arguments, "limit", ())),
            tuple(getattr(arguments, "cors_origin", ())),
            tuple(getattr(arguments, "feedback_reason", ())),
            getattr(arguments, "consent", "given"),
            getattr(arguments, "redact", "none"),
        )

    def arguments(self) -> tuple[str, ...]:
        """The flags again, for a gateway that is started as a process."""
        flags = [] if self.keys is None else ["--keys", str(self.keys)]
        for limit in self.limits:
            flags += ["--limit", limit]
        for origin in self.cors_origins:
            flags += ["--cors-origin", origin]
        for reason in self.feedback_reasons:
            flags += ["--feedback-reason", reason]
        return (*flags, "--consent", self.consent, "--redact", self.redact)

    def settings(self) -> dict[str, Any]:
        """The gateway's settings. Raises UsageError for a limit or a redactor that is none."""
        from feedback.redaction import load_redactor
        from serve.limits import parse_limits

        try:
            limits = parse_limits(self.limits)
        except ValueError as error:
            raise UsageError(f"--limit: {error}") from error
        try:
            load_redactor(self.redact)
        except ValueError as error:
            raise UsageError(f"--redact: {error}") from error
        return {
            "keys": self.keys,
            "limits": limits,
            "cors_origins": self.cors_origins,
            "feedback_reasons": self.feedback_reasons,
            "consent": self.consent,
            "redact": self.redact,
        }


def check(host: str, data: Path, flags: AccessFlags) -> str | None:
    """A line of warning when a service without keys can be reached from other machines.

    Raises UsageError for what the gateway would refuse: its key file, or a limit.
    """
    flags.settings()
    from serve.keyfile import read_keys
    from serve.keys import BadKeyFile

    path = flags.keys or data / "keys.json"
    if flags.keys is not None or path.exists():
        try:
            read_keys(path)
        except BadKeyFile as error:
            raise UsageError(f"the key file {path} cannot be used: {error}") from error
        return None
    if _is_loopback(host):
        return None
    return (
        f"warning: {host} can be reached from other machines, and there are no API keys: whoever reaches "
        "this service can chat, vote and read its metrics; "
        f"`hearken keys create --data {data} --name NAME` makes the first key and shuts out all others"
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


NO_FLAGS = AccessFlags()

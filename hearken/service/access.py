"""Who may use a service: what is to be known about it before the gateway starts."""

import ipaddress
from typing import TYPE_CHECKING

from hearken.base.errors import UsageError

if TYPE_CHECKING:
    from serve.settings import GatewaySettings


def check(gateway: "GatewaySettings") -> str | None:
    """A line of warning when a service without keys can be reached from other machines.

    Raises UsageError for a key file that the gateway would refuse.
    """
    from serve.auth.keyfile import read_keys
    from serve.auth.keys import BadKeyFile

    path = gateway.key_file
    if gateway.keys is not None or path.exists():
        try:
            read_keys(path)
        except BadKeyFile as error:
            raise UsageError(f"the key file {path} cannot be used: {error}") from error
        return None
    if _is_loopback(gateway.host):
        return None
    return (
        f"warning: {gateway.host} can be reached from other machines, and there are no API keys: whoever "
        "reaches this service can chat, vote and read its metrics; "
        f"`hearken keys create --data {gateway.data} --name NAME` makes the first key and shuts out all "
        "others"
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

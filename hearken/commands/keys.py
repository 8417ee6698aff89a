"""`hearken keys`: make, list and revoke API keys."""

import argparse

from hearken.base.errors import UsageError
from hearken.commands import Command, actions_of, as_json, flag

KEYS = {"--data": "service.data", "--keys": "gateway.keys"}


def _add(command: argparse.ArgumentParser) -> None:
    from hearken.service import flags

    actions = actions_of(command)
    create = actions.add_parser("create", help="make a key and print it, this once")
    _add_create(create)
    listing = actions.add_parser("list", help="print the keys; not the secrets, which nobody has kept")
    as_json(listing)
    revoke = actions.add_parser("revoke", help="end a key; running gateways refuse it within a second or two")
    revoke.add_argument("id", metavar="ID", help="the key's id, as `hearken keys list` prints it")
    for action in (create, listing, revoke):
        flags.add(action, KEYS)


def _add_create(create: argparse.ArgumentParser) -> None:
    from serve.auth.limits import NAMES

    flag(create, "--name", str, None, "what the key is for, as people call it (needed)")
    scopes = ("chat", "feedback", "operate")
    text = f"what it may do: {', '.join(scopes)}; may be given several times (default: chat and feedback)"
    create.add_argument("--scope", action="append", default=[], choices=scopes, help=text)
    flag(create, "--tenant", str, "default", "whose users, chats and votes its are")
    flag(create, "--days", float, None, "how long it is in force; without it until it is revoked")
    text = "its users' consent to keep their texts and learn from them; without it as the service was told"
    flag(create, "--consent", str, None, text, choices=("given", "asked"))
    text = (
        f"limit of this key, else the service's own: NAME is one of {', '.join(NAMES)}, 0 means no limit; "
        "may be given several times"
    )
    create.add_argument("--limit", action="append", default=[], metavar="NAME=N", help=text)


def _run(arguments: argparse.Namespace) -> int:
    from hearken.operate import keys
    from hearken.service import flags

    config = flags.configured(arguments, KEYS)
    file = keys.key_file(config.build("service").folder, config.get("gateway.keys").value)
    if arguments.action == "create":
        if arguments.name is None:
            raise UsageError("a key needs --name, what it is for")
        return keys.create(
            file,
            arguments.name,
            arguments.scope,
            arguments.tenant,
            arguments.days,
            arguments.limit,
            arguments.consent,
        )
    if arguments.action == "list":
        return keys.show(file, as_json=arguments.json)
    return keys.revoke(file, arguments.id)


COMMANDS = (
    Command(
        "keys",
        "make, list and revoke API keys; the service has none, and is open, until the first is made",
        _run,
        add=_add,
    ),
)

"""`hearken registry` and `hearken fetch`: where adapters are kept, and how engines get them."""

import argparse
from pathlib import Path

from hearken.commands import Command, actions_of, as_json, flag, whole_number

_SERVICE = {
    "--data": "service.data",
    "--registry": "service.registry",
    "--kafka": "service.kafka",
    "--redis": "service.redis",
}

FETCH = {
    "--registry": "service.registry",
    "--port": "service.fetch_port",
    "--copies": "service.registry_copies",
}

NEWEST, YOUNGER = 20, "7d"


def _add(command: argparse.ArgumentParser) -> None:
    from hearken.service import flags

    actions = actions_of(command)
    shown = actions.add_parser("list", help="print the versions with their sizes, oldest first")
    text = "say which versions' files nothing needs any more, and with --delete delete them; manifests stay"
    collected = actions.add_parser("gc", help=text)
    text = "delete them, for good (default: say what would be deleted)"
    collected.add_argument("--delete", action="store_true", help=text)
    flag(collected, "--newest", whole_number, NEWEST, "so many of the last versions stay, whatever they are")
    flag(collected, "--younger", str, YOUNGER, "what was published since so long stays: 7d, 12h")
    for parser in (shown, collected):
        as_json(parser)
        flags.add(parser, _SERVICE)


def _run(arguments: argparse.Namespace) -> int:
    from hearken.operate import registry
    from hearken.service import flags

    service = flags.configured(arguments, _SERVICE).build("service")
    if arguments.action == "list":
        return registry.show(service, as_json=arguments.json)
    rules = registry.Rules(arguments.newest, arguments.younger)
    return registry.collect(service, rules, delete=arguments.delete, as_json=arguments.json)


def _add_fetch(command: argparse.ArgumentParser) -> None:
    text = "where copies go; the engine has to see them under the same path; without it ~/.cache/hearken"
    flag(command, "--folder", Path, None, text)
    flag(command, "--host", str, "127.0.0.1", "address to listen on: one that controller and learner reach")


def _fetch(arguments: argparse.Namespace) -> int:
    from feedback.core.files import cache_folder
    from hearken.service import fetching, flags

    service = flags.configured(arguments, FETCH).build("service")
    folder = arguments.folder or cache_folder()
    port = service.fetch_port or fetching.PORT
    return fetching.run(service.registry, folder, arguments.host, port, service.registry_copies)


COMMANDS = (
    Command("registry", "list the versions of adapters, and delete what nothing needs", _run, add=_add),
    Command("fetch", "bring adapters from the registry's bucket to the engine beside it", _fetch, FETCH,
            _add_fetch),
)  # fmt: skip

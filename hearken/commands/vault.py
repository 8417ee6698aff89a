"""`hearken vault`: what to do when the keys of users' texts are lost."""

import argparse

from hearken.commands import Command, actions_of

DATA = {"--data": "service.data"}


def _add(command: argparse.ArgumentParser) -> None:
    from hearken.service import flags

    actions = actions_of(command)
    text = "give up all texts whose keys are not in the vault that is there, and go on with it"
    flags.add(actions.add_parser("renew", help=text), DATA)


def _run(arguments: argparse.Namespace) -> int:
    from hearken.operate import vault
    from hearken.service import flags

    return vault.renew(flags.configured(arguments, DATA).build("service").folder)


COMMANDS = (Command("vault", "what to do when the keys of users' texts are lost", _run, add=_add),)

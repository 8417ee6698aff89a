"""What an operator steers: `hearken rollback`, `pause`, `resume`, and all of `hearken release`."""

import argparse
from functools import partial

from hearken.commands import Command, actions_of, as_json, flag, whole_number

_LOG = {"--data": "service.data", "--kafka": "service.kafka"}
_STEERING = {**_LOG, "--redis": "service.redis"}

WAIT_SECONDS = 30

_WITH_VERSION = {
    "promote": ("?", "the canary that is meant; without it the one that runs"),
    "pin": (None, "a version of the registry, or base"),
}
"""Actions that take a version: whether it may be left out, and what it is."""


def _add_ask(name: str, command: argparse.ArgumentParser) -> None:
    command.set_defaults(asked=name, version=None)
    if name in _WITH_VERSION:
        count, text = _WITH_VERSION[name]
        command.add_argument("version", metavar="VERSION", nargs=count, help=text)
    flag(command, "--reason", str, f"hearken {name}", "why, for the record")
    text = "seconds to wait until the controller has decided and all gateways serve by it; 0: do not wait"
    flag(command, "--wait", whole_number, WAIT_SECONDS, text)


def _ask(arguments: argparse.Namespace) -> int:
    from hearken.operate.steering import ask
    from hearken.service import flags

    service = flags.configured(arguments, _STEERING).build("service")
    return ask(service, arguments.asked, arguments.version, arguments.reason, arguments.wait)


_ASKED = {
    "promote": "make the canary that runs live now, without waiting for evidence",
    "freeze": "start no canary; one that runs goes on, and so does learning",
    "unfreeze": "let canaries start again",
    "pin": "let one version serve everybody, and nothing replace it",
    "unpin": "let releases go on from the version that was pinned",
}
_HELD = {
    "rollback": "put the previous policy back in force, and wait until all gateways serve it",
    "pause": "hold releases: candidates wait, a running canary keeps its users",
    "resume": "let releases go on after a pause",
}


def _add_release(command: argparse.ArgumentParser) -> None:
    from hearken.service import flags

    actions = actions_of(command)
    text = "say why a canary waits and for what, or what became of a version"
    why = actions.add_parser("why", help=text)
    why.add_argument("version", metavar="VERSION", nargs="?", help="without it what runs now")
    history = actions.add_parser("history", help="print all decisions, the newest last")
    flag(history, "--limit", whole_number, None, "how many of the newest; without it all")
    report = actions.add_parser("report", help="say what people think of a version against the one before")
    text = "a version that had a canary; without it the newest that had one"
    report.add_argument("version", metavar="VERSION", nargs="?", help=text)
    report.add_argument("--html", action="store_true", help="as a page")
    looked_at_again = _add_certificates(actions)
    for parser in (why, history, report, *looked_at_again):
        as_json(parser)
        flags.add(parser, _LOG)
    for name, text in _ASKED.items():
        parser = actions.add_parser(name, help=text)
        _add_ask(name, parser)
        flags.add(parser, _STEERING)


def _add_certificates(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> list[argparse.ArgumentParser]:
    text = "say whether decisions, votes and manifests are what was written, without reading a text"
    verify = actions.add_parser("verify", help=text)
    text = "a public key that may have signed, beside the folder's own; may be given several times"
    verify.add_argument("--key", action="append", default=[], metavar="KEY", help=text)
    flag(verify, "--head", str, None, "a sum that verify printed before: that decision has to be there")
    replay = actions.add_parser("replay", help="judge decisions again by the log, and say what differs")
    flag(replay, "--release", str, None, "of this release alone, like release-5; without it of all")
    text = "say what releases would have come to by other settings: --set controller.margin=0.02"
    rehearse = actions.add_parser("rehearse", help=text)
    text = "only releases that began since: 7d, 12h or 2026-11-29; without it all"
    flag(rehearse, "--since", str, None, text)
    return [verify, replay, rehearse]


def _certificates(arguments: argparse.Namespace) -> int:
    from hearken.operate import certificates
    from hearken.service import flags

    tried: list[str] = []
    if arguments.action == "rehearse":  # what is tried must not become the settings of old decisions
        tried = [text for text in arguments.set if text.startswith("controller.")]
        arguments.set = [text for text in arguments.set if text not in tried]
    config = flags.configured(arguments, _LOG)
    service = config.build("service")
    if arguments.action == "verify":
        return certificates.verify(service, arguments.key, arguments.head, as_json=arguments.json)
    controller = config.build("controller")
    if arguments.action == "replay":
        return certificates.replay(service, controller, arguments.release, as_json=arguments.json)
    arguments.set = tried
    given = {path: each.value for path, each in flags.given(arguments, {}).items()}
    changes = certificates.changes_of(given)
    return certificates.rehearse(service, controller, changes, arguments.since, as_json=arguments.json)


def _release(arguments: argparse.Namespace) -> int:
    from hearken.operate import releases
    from hearken.service import flags

    if arguments.action in _ASKED:
        return _ask(arguments)
    if arguments.action in ("verify", "replay", "rehearse"):
        return _certificates(arguments)
    config = flags.configured(arguments, _LOG)
    service = config.build("service")
    if arguments.action == "history":
        return releases.history(service, arguments.limit, as_json=arguments.json)
    if arguments.action == "report":
        return releases.report(service, arguments.version, as_json=arguments.json, as_html=arguments.html)
    controller = config.build("controller")
    return releases.why(service, controller, arguments.version, as_json=arguments.json)


COMMANDS = (
    Command("release", "why a release waits, how it did, its history, proof; promote, freeze, pin", _release,
            add=_add_release),
    *(Command(name, text, _ask, _STEERING, partial(_add_ask, name)) for name, text in _HELD.items()),
)  # fmt: skip

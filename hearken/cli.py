"""The command line. Every command's code is imported when it runs, so that `--help` answers at once."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from hearken.errors import UsageError

if TYPE_CHECKING:
    from hearken.up import UpSettings

Run = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def default_data() -> Path:
    """Where a service's data lies unless told otherwise: ~/.local/share/hearken, or under XDG_DATA_HOME."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "hearken"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (it failed) or 2 (it was asked wrongly)."""
    arguments = parser().parse_args(argv)
    run: Run = arguments.run
    try:
        return run(arguments)
    except UsageError as error:
        print(f"hearken: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """All commands and flags."""
    top = argparse.ArgumentParser(
        prog="hearken",
        description="A chat service that learns from the people who use it.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=18),
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (
        _up,
        _demo,
        _tiny,
        _sft,
        _gateway,
        _controller,
        _learner,
        _keys,
        _import,
        _export,
        _raters,
        _status,
        _rollback,
        _pause,
    ):
        add(commands)
    _resume(commands)
    _command(commands, "version", "print the version", _run_version)
    return top


def _command(commands: Commands, name: str, text: str, run: Run) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=run)
    return command


def _flag(
    command: argparse.ArgumentParser,
    name: str,
    kind: Callable[[str], object],
    default: object,
    text: str,
    choices: Sequence[str] | None = None,
) -> None:
    """A flag with a value. The help shows the default; where it is None, `text` says what happens."""
    shown = text if default is None else f"{text} (default: {default})"
    metavar = None if choices else name.removeprefix("--").replace("-", "_").upper()
    command.add_argument(name, type=kind, default=default, help=shown, metavar=metavar, choices=choices)


def _data(command: argparse.ArgumentParser) -> None:
    _flag(command, "--data", Path, default_data(), "folder of the service's data")


def _kafka(command: argparse.ArgumentParser) -> None:
    _flag(command, "--kafka", str, None, "HOST:PORT of a Kafka broker; without it the embedded log is used")


def _redis(command: argparse.ArgumentParser) -> None:
    _flag(command, "--redis", str, None, "URL of a Redis server; without it a local file does its work")


def _pace(command: argparse.ArgumentParser, default: str) -> None:
    text = "how fast releases go: seconds and small samples (demo), or hours and large ones (normal)"
    _flag(command, "--pace", str, default, text, choices=("demo", "normal"))


def _kl_budget(command: argparse.ArgumentParser) -> None:
    text = "most KL to the base, per response, that a policy may have; without it the learner's default"
    _flag(command, "--kl-budget-nats", float, None, text)


def _queue(command: argparse.ArgumentParser) -> None:
    """How much a gateway asks of an engine at a time, and who waits for how long."""
    text = "requests that a gateway has on one engine at a time; the others wait"
    _flag(command, "--max-in-flight", int, 128, text)
    _flag(command, "--queue-length", int, 256, "requests that may wait; one more is refused (503)")
    _flag(command, "--queue-seconds", float, 10.0, "how long a request may wait before it is refused (503)")


def _access(command: argparse.ArgumentParser) -> None:
    """Who may use the service, and how much of it."""
    text = "file of API keys; without it keys.json in the data folder, if there is one"
    _flag(command, "--keys", Path, None, text)
    _limits(command, "limit of keys that have none of their own")
    text = (
        "web pages of this origin may call the API, such as https://example.com; may be given several times"
    )
    command.add_argument("--cors-origin", action="append", default=[], metavar="URL", help=text)
    text = "a reason that votes may give, in place of those of docs/feedback.md; may be given several times"
    command.add_argument("--feedback-reason", action="append", default=[], metavar="WORD", help=text)
    _consent(command, "given", "")
    text = (
        "what texts go through before they are kept: none, patterns, presidio, or a function as module:name"
    )
    _flag(command, "--redact", str, "none", text)


def _limits(command: argparse.ArgumentParser, text: str) -> None:
    names = "requests_per_minute, tokens_per_minute, user_requests_per_minute or concurrent_requests"
    text += f": NAME is {names}, 0 means no limit; may be given several times"
    command.add_argument("--limit", action="append", default=[], metavar="NAME=N", help=text)


def _service_flags(command: argparse.ArgumentParser) -> None:
    """What `up` and `demo` share."""
    text = "folder or Hugging Face name of the base model; without it a tiny one is trained once"
    _flag(command, "--model", str, None, text)
    _flag(command, "--host", str, "127.0.0.1", "address that the gateway listens on")
    _flag(command, "--port", int, 8000, "port of the gateway; those above it are used as well")
    _flag(command, "--engines", int, 1, "how many engines (vLLM servers) to run; on GPUs, one or more each")
    _queue(command)
    _kafka(command)
    _redis(command)
    _flag(command, "--seed", int, 0, "seed of everything random")
    _kl_budget(command)
    _flag(command, "--engine-flags", str, "", "further flags for vLLM, in one string")


# One function per command: its flags, and what runs.


def _up(commands: Commands) -> None:
    text = "run the whole service on this machine: engine, gateway, learner and controller"
    command = _command(commands, "up", text, _run_up)
    _data(command)
    _service_flags(command)
    _pace(command, "normal")
    _access(command)


def _demo(commands: Commands) -> None:
    text = "run the whole service with simulated users and watch it learn what they like"
    command = _command(commands, "demo", text, _run_demo)
    _flag(command, "--data", Path, None, "folder of the demo's data; without it a fresh one under the cache")
    _service_flags(command)
    _pace(command, "demo")
    _flag(command, "--minutes", float, 10.0, "how long the simulated users stay, from when all is ready")
    _flag(command, "--persona", str, "friendly", "what they like: a shipped persona's name or a JSON file")
    _flag(command, "--users", int, 5000, "how many different simulated users there are")
    _flag(command, "--concurrency", int, 5, "how many of them chat at the same time")
    _flag(command, "--report", Path, None, "write the report of the run to this JSON file")
    command.add_argument(
        "--exit", action="store_true", help="end when the time is up (default: go on serving)"
    )


def _tiny(commands: Commands) -> None:
    text = "train the built-in tiny model, unless it is in the cache already"
    command = _command(commands, "tiny", text, _run_tiny)
    _flag(command, "--folder", Path, None, "where to put it; without it ~/.cache/hearken/tiny")
    command.add_argument("--force", action="store_true", help="train it anew (default: keep it)")


def _sft(commands: Commands) -> None:
    text = "fine-tune the base model on demonstrations: version 0, which a new service starts with"
    command = _command(commands, "sft", text, _run_sft)
    text = "JSON, JSON lines, CSV or Parquet of demonstrations, such as {prompt, completion}; may be repeated"
    command.add_argument("--demonstrations", type=Path, action="append", required=True, help=text)
    _flag(command, "--model", str, None, "folder or Hugging Face name; without it the tiny model")
    _data(command)
    _kafka(command)
    _flag(command, "--epochs", int, 3, "passes over the demonstrations; the best by held-out loss is kept")
    _flag(command, "--learning-rate", float, 1e-3, "of the adapter, at its peak")
    _flag(command, "--max-tokens", int, 1024, "prompt and answer together; what is longer is left out")
    _flag(
        command,
        "--rank",
        int,
        8,
        "LoRA rank; `hearken up` and the learner follow it; engines of your own: --max-lora-rank",
    )


def _gateway(commands: Commands) -> None:
    command = _command(commands, "gateway", "run one gateway: the HTTP API and the pages", _run_gateway)
    _data(command)
    _engines(command, many=True)
    _flag(command, "--host", str, "127.0.0.1", "address to listen on")
    _flag(command, "--port", int, 8000, "port to listen on")
    _flag(command, "--model-name", str, "hearken", "name of the model in the API")
    _queue(command)
    _kafka(command)
    _redis(command)
    text = "days that completions and votes are kept in the embedded log; 0: for ever"
    _flag(command, "--retention-days", float, 90.0, text)
    _access(command)


def _controller(commands: Commands) -> None:
    text = "run the release controller: gate, canary, promotion and rollback"
    command = _command(commands, "controller", text, _run_controller)
    _data(command)
    _engines(command, many=True)
    _metrics(command, 8003)
    _kafka(command)
    _redis(command)
    _pace(command, "normal")


def _learner(commands: Commands) -> None:
    text = "run the learner: reward model, PPO and candidates"
    command = _command(commands, "learner", text, _run_learner)
    _data(command)
    _engines(command, many=False)
    _flag(command, "--model", str, None, "folder or Hugging Face name of the base model (needed)")
    _metrics(command, 8002)
    _kafka(command)
    _redis(command)
    _pace(command, "normal")
    _flag(command, "--seed", int, 0, "seed of everything random")
    _flag(command, "--threads", int, None, "torch's CPU threads; without it torch's own choice")
    text = "arithmetic of the model's matrix products; auto is bfloat16 where the hardware is fast at it"
    _flag(command, "--products", str, "auto", text, choices=("auto", "float32", "bfloat16"))
    _kl_budget(command)


def _consent(command: argparse.ArgumentParser, default: str | None, otherwise: str) -> None:
    text = "users' consent to keep their texts and learn from them: given, or asked of each request"
    shown = text if default is not None else f"{text}; without it {otherwise}"
    _flag(command, "--consent", str, default, shown, choices=("given", "asked"))


def _keys(commands: Commands) -> None:
    text = "make, list and revoke API keys; the service has none, and is open, until the first is made"
    actions = _command(commands, "keys", text, _run_keys).add_subparsers(
        title="actions", metavar="ACTION", required=True, dest="action", help="one of:"
    )
    create = actions.add_parser("create", help="make a key and print it, this once")
    _flag(create, "--name", str, None, "what the key is for, as people call it (needed)")
    text = (
        "what it may do: chat, feedback or operate; may be given several times (default: chat and feedback)"
    )
    create.add_argument(
        "--scope", action="append", default=[], choices=("chat", "feedback", "operate"), help=text
    )
    _flag(create, "--tenant", str, "default", "whose users, chats and votes its are")
    _flag(create, "--days", float, None, "how long it is in force; without it until it is revoked")
    _consent(create, None, "is as the service was told")
    _limits(create, "limit of this key; what is not given is the service's own")
    listing = actions.add_parser("list", help="print the keys; not the secrets, which nobody has kept")
    listing.add_argument("--json", action="store_true", help="print JSON (default: lines for people)")
    revoke = actions.add_parser("revoke", help="end a key; running gateways refuse it within a second or two")
    revoke.add_argument("id", metavar="ID", help="the key's id, as `hearken keys list` prints it")
    for action in (create, listing, revoke):
        _data(action)
        _flag(action, "--keys", Path, None, "file of API keys; without it keys.json in the data folder")


def _import(commands: Commands) -> None:
    from feedback.dialects import LAYOUTS

    text = "put judged examples from files into the log: pairs, thumbs, ratings, demonstrations"
    command = _command(commands, "import", text, _run_import)
    command.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help=".json, .jsonl, .csv or .parquet"
    )
    _data(command)
    text = "what a row looks like; auto tells by the fields that each row has"
    _flag(command, "--layout", str, "auto", text, choices=("auto", *LAYOUTS))
    text = "folder or Hugging Face name of the base model, for its tokens; without it the tiny model"
    _flag(command, "--model", str, None, text)
    _flag(command, "--tenant", str, "default", "the tenant that they belong to")
    _kafka(command)
    _flag(command, "--report", Path, None, "write to this JSON file what became of every row")
    command.add_argument("--dry-run", action="store_true", help="read and report, write nothing")


def _export(commands: Commands) -> None:
    from feedback.exports import EXPORTS

    text = "write the votes in the log, with their texts, to a file for trainers and other services"
    command = _command(commands, "export", text, _run_export)
    command.add_argument("file", type=Path, metavar="FILE", help=".jsonl, .json, .csv or .parquet")
    _data(command)
    text = "what a row looks like; hearken keeps everything and can be imported again"
    _flag(command, "--layout", str, "hearken", text, choices=tuple(EXPORTS))
    _kafka(command)


def _raters(commands: Commands) -> None:
    text = "print the raters whose votes wait or weigh less, and why"
    command = _command(commands, "raters", text, _run_raters)
    _data(command)
    command.add_argument("--json", action="store_true", help="print JSON (default: lines for people)")


def _status(commands: Commands) -> None:
    command = _command(commands, "status", "print which policies serve, and the last decisions", _run_status)
    _data(command)
    _kafka(command)
    command.add_argument("--json", action="store_true", help="print JSON (default: lines for people)")


def _rollback(commands: Commands) -> None:
    _operator(commands, "rollback", "put the previous policy back in force")


def _pause(commands: Commands) -> None:
    _operator(commands, "pause", "hold releases: candidates wait, a running canary keeps its users")


def _resume(commands: Commands) -> None:
    _operator(commands, "resume", "let releases go on after a pause")


def _operator(commands: Commands, name: str, text: str) -> None:
    command = _command(commands, name, text, _run_operator)
    command.set_defaults(command=name)
    _data(command)
    _kafka(command)
    _flag(command, "--reason", str, f"hearken {name}", "why, for the record")


def _engines(command: argparse.ArgumentParser, *, many: bool) -> None:
    url = "http://127.0.0.1:8001"
    text = f"URL of a vLLM server{'; may be given several times' if many else ''} (default: {url})"
    command.add_argument("--engine", action="append", metavar="URL", help=text)


def _metrics(command: argparse.ArgumentParser, port: int) -> None:
    _flag(command, "--metrics-port", int, port, "port of the Prometheus metrics")
    _flag(command, "--metrics-host", str, "127.0.0.1", "address of the Prometheus metrics")


# What runs. Heavy imports stay inside.


def _engine_urls(arguments: argparse.Namespace) -> tuple[str, ...]:
    return tuple(arguments.engine or ("http://127.0.0.1:8001",))


def _run_up(arguments: argparse.Namespace) -> int:
    from hearken import up

    return up.run(_up_settings(arguments, arguments.data))


def _up_settings(arguments: argparse.Namespace, data: Path) -> "UpSettings":
    import shlex

    from hearken.access import AccessFlags
    from hearken.up import UpSettings

    return UpSettings(
        data=data.expanduser().resolve(),
        model=arguments.model,
        host=arguments.host,
        port=arguments.port,
        kafka=arguments.kafka,
        redis=arguments.redis,
        pace=arguments.pace,
        seed=arguments.seed,
        kl_budget_nats=arguments.kl_budget_nats,
        engines=arguments.engines,
        max_in_flight=arguments.max_in_flight,
        queue_length=arguments.queue_length,
        queue_seconds=arguments.queue_seconds,
        engine_flags=tuple(shlex.split(arguments.engine_flags)),
        access=AccessFlags.of(arguments),
    )


def _run_demo(arguments: argparse.Namespace) -> int:
    from hearken import demo

    data = arguments.data or demo.fresh_folder()
    if (data / "keys.json").exists():
        raise UsageError(f"{data} has API keys, and the demo's users have none; pass another --data DIR")
    return demo.run(
        demo.DemoSettings(
            up=_up_settings(arguments, data),
            minutes=arguments.minutes,
            persona=arguments.persona,
            users=arguments.users,
            concurrency=arguments.concurrency,
            report=arguments.report,
            exit=arguments.exit,
        )
    )


def _run_tiny(arguments: argparse.Namespace) -> int:
    from hearken import tiny

    try:
        tiny.run(arguments.folder, arguments.force)
    except tiny.NotOurFolder as error:
        raise UsageError(str(error)) from error
    return 0


def _run_sft(arguments: argparse.Namespace) -> int:
    from hearken.engine import LORA_RANKS
    from hearken.fine_tuning import SftSettings, run
    from hearken.importing import choose_model

    for name in ("epochs", "max_tokens", "rank", "learning_rate"):
        if not getattr(arguments, name) > 0:
            raise UsageError(f"--{name.replace('_', '-')} must be above 0")
    if arguments.rank > LORA_RANKS[-1]:
        raise UsageError(f"--rank {arguments.rank} is more than engines serve; at most {LORA_RANKS[-1]}")
    return run(
        SftSettings(
            model=choose_model(arguments.model),
            demonstrations=tuple(arguments.demonstrations),
            data=arguments.data,
            kafka=arguments.kafka,
            epochs=arguments.epochs,
            learning_rate=arguments.learning_rate,
            max_tokens=arguments.max_tokens,
            rank=arguments.rank,
        )
    )


def _run_gateway(arguments: argparse.Namespace) -> int:
    from hearken.roles import run_gateway

    return run_gateway(arguments, _engine_urls(arguments))


def _run_controller(arguments: argparse.Namespace) -> int:
    from hearken.roles import run_controller

    return run_controller(arguments, _engine_urls(arguments))


def _run_learner(arguments: argparse.Namespace) -> int:
    if arguments.model is None:
        raise UsageError("the learner needs --model, the base model that its engine serves")
    if len(_engine_urls(arguments)) > 1:
        raise UsageError("the learner takes one --engine")
    from hearken.roles import run_learner

    return run_learner(arguments, _engine_urls(arguments)[0])


def _run_keys(arguments: argparse.Namespace) -> int:
    from hearken import keys

    file = keys.key_file(arguments.data, arguments.keys)
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


def _run_import(arguments: argparse.Namespace) -> int:
    from hearken import checks, importing

    data = arguments.data.expanduser().resolve()
    checks.prepare_data(data)
    settings = importing.ImportSettings(
        files=tuple(arguments.files),
        data=data,
        model=importing.choose_model(arguments.model),
        layout=arguments.layout,
        tenant=arguments.tenant,
        kafka=arguments.kafka,
        dry_run=arguments.dry_run,
    )
    return importing.run(settings, arguments.report)


def _run_export(arguments: argparse.Namespace) -> int:
    from hearken import exporting

    return exporting.run(arguments.file, arguments.layout, arguments.data.expanduser(), arguments.kafka)


def _run_raters(arguments: argparse.Namespace) -> int:
    from hearken.operate import raters

    return raters(arguments.data.expanduser(), as_json=arguments.json)


def _run_status(arguments: argparse.Namespace) -> int:
    from hearken.operate import status

    return status(arguments.data, arguments.kafka, as_json=arguments.json)


def _run_operator(arguments: argparse.Namespace) -> int:
    from hearken.operate import command

    return command(arguments.data, arguments.kafka, arguments.command, arguments.reason)


def _run_version(arguments: argparse.Namespace) -> int:
    from importlib.metadata import PackageNotFoundError, version

    try:
        print(version("hearken"))
    except PackageNotFoundError:
        print("unknown (hearken is not installed)")
    return 0

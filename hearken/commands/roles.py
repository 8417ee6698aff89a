"""`hearken gateway`, `controller` and `learner`: one process of a service, wherever it runs."""

import argparse

from hearken.commands import Command

_SERVICE = {"--data": "service.data", "--kafka": "service.kafka"}

GATEWAY = {
    **_SERVICE,
    "--redis": "service.redis",
    "--engine": "gateway.engines",
    "--host": "gateway.host",
    "--port": "gateway.port",
    "--model": "service.model",
    "--model-name": "gateway.model_name",
    "--max-in-flight": "gateway.max_in_flight",
    "--queue-length": "gateway.queue_length",
    "--queue-seconds": "gateway.queue_seconds",
    "--retention-days": "gateway.retention_days",
    "--keys": "gateway.keys",
    "--limit": "gateway.limits",
    "--cors-origin": "gateway.cors_origins",
    "--trusted-host": "gateway.trusted_hosts",
    "--trusted-proxy": "gateway.trusted_proxies",
    "--feedback-reason": "gateway.feedback_reasons",
    "--consent": "gateway.consent",
    "--redact": "gateway.redact",
}

CONTROLLER = {
    **_SERVICE,
    "--redis": "service.redis",
    "--engine": "controller.engines",
    "--metrics-port": "controller.metrics_port",
    "--metrics-host": "controller.metrics_host",
    "--pace": "service.pace",
}

LEARNER = {
    **_SERVICE,
    "--engine": "learner.engine",
    "--model": "service.model",
    "--metrics-port": "learner.metrics_port",
    "--metrics-host": "learner.metrics_host",
    "--pace": "service.pace",
    "--seed": "service.seed",
    "--threads": "learner.threads",
    "--products": "learner.products",
    "--optimiser": "learner.optimiser",
    "--kl-budget-nats": "learner.kl_budget_nats",
    "--memory-check": "service.memory_check",
}


JUDGE = {
    **_SERVICE,
    "--url": "judge.url",
    "--model": "judge.model",
    "--key-file": "judge.key_file",
    "--principles": "judge.principles",
    "--judge": "judge.judge",
    "--name": "judge.name",
}

REVISE = {
    **_SERVICE,
    "--url": "revise.url",
    "--model": "revise.model",
    "--key-file": "revise.key_file",
}

LISTEN = {
    **_SERVICE,
    "--url": "listen.url",
    "--model": "listen.model",
    "--key-file": "listen.key_file",
}


def _gateway(arguments: argparse.Namespace) -> int:
    from hearken.service import flags, roles

    return roles.run_gateway(flags.configured(arguments, GATEWAY))


def _controller(arguments: argparse.Namespace) -> int:
    from hearken.service import flags, roles

    return roles.run_controller(flags.configured(arguments, CONTROLLER))


def _learner(arguments: argparse.Namespace) -> int:
    from hearken.service import flags, roles

    return roles.run_learner(flags.configured(arguments, LEARNER))


def _add_once(command: argparse.ArgumentParser) -> None:
    command.add_argument("--once", action="store_true", help="work off what is in the log now, and end")


def _judge(arguments: argparse.Namespace) -> int:
    from hearken.service import flags, roles

    return roles.run_judge(flags.configured(arguments, JUDGE), once=arguments.once)


def _revise(arguments: argparse.Namespace) -> int:
    from hearken.service import flags, roles

    return roles.run_reviser(flags.configured(arguments, REVISE), once=arguments.once)


def _listen(arguments: argparse.Namespace) -> int:
    from hearken.service import flags, roles

    return roles.run_listener(flags.configured(arguments, LISTEN), once=arguments.once)


COMMANDS = (
    Command("gateway", "run one gateway: the HTTP API and the pages", _gateway, GATEWAY),
    Command(
        "controller",
        "run the release controller: gate, canary, promotion and rollback",
        _controller,
        CONTROLLER,
    ),
    Command("learner", "run the learner: reward model, PPO and candidates", _learner, LEARNER),
    Command("judge", "let a model vote on the pairs of answers in the log", _judge, JUDGE, _add_once),
    Command("revise", "let a model revise answers as comments ask", _revise, REVISE, _add_once),
    Command("listen", "let a model read what next messages say of answers", _listen, LISTEN, _add_once),
)

"""`hearken up` and `hearken demo`: the whole service on this machine."""

import argparse

from hearken.commands import Command

_SERVICE = {
    "--model": "service.model",
    "--host": "gateway.host",
    "--port": "gateway.port",
    "--engines": "engine.count",
    "--max-in-flight": "gateway.max_in_flight",
    "--queue-length": "gateway.queue_length",
    "--queue-seconds": "gateway.queue_seconds",
    "--default-max-tokens": "gateway.default_max_tokens",
    "--seed": "service.seed",
    "--kl-budget-nats": "learner.kl_budget_nats",
    "--engine-flags": "engine.flags",
    "--memory-check": "service.memory_check",
}

UP = {
    "--data": "service.data",
    **_SERVICE,
    "--kafka": "service.kafka",
    "--redis": "service.redis",
    "--pace": "service.pace",
    "--keys": "gateway.keys",
    "--limit": "gateway.limits",
    "--cors-origin": "gateway.cors_origins",
    "--trusted-host": "gateway.trusted_hosts",
    "--trusted-proxy": "gateway.trusted_proxies",
    "--feedback-reason": "gateway.feedback_reasons",
    "--consent": "gateway.consent",
    "--redact": "gateway.redact",
}

DEMO = {
    "--data": "demo.data",
    **_SERVICE,
    "--kafka": "demo.kafka",
    "--redis": "demo.redis",
    "--pace": "demo.pace",
    "--minutes": "demo.minutes",
    "--persona": "demo.persona",
    "--users": "demo.users",
    "--concurrency": "demo.concurrency",
    "--report": "demo.report",
    "--exit": "demo.exit",
}


def _up(arguments: argparse.Namespace) -> int:
    from hearken.service import flags, up
    from hearken.service.plan import UpSettings

    return up.run(UpSettings.of(flags.configured(arguments, UP)))


def _demo(arguments: argparse.Namespace) -> int:
    from hearken.demo import demo
    from hearken.service import flags

    return demo.run(*demo.configure(flags.given(arguments, DEMO), arguments.config))


COMMANDS = (
    Command("up", "run the whole service on this machine: engine, gateway, learner and controller", _up, UP),
    Command(
        "demo",
        "run the whole service with simulated users and watch it learn what they like",
        _demo,
        DEMO,
    ),
)

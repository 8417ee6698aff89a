"""Pairs of answers of a shadow, as gateways tell of them."""

from collections.abc import Callable
from typing import Any

from deploy.history.releases import entry
from deploy.history.shadowed import Shadowed, Traits
from deploy.history.states import Shadow
from tests.deploy.world import World

SHADOW: dict[str, Any] = {"shadow_prompts": 32, "shadow_seconds": 30}


def usual(number: int) -> Traits:
    """An answer as they are: lengths and times vary, one in sixteen refuses."""
    return Traits(tokens=15 + 7 * (number % 5), seconds=0.5 + 0.1 * (number % 3), refuses=number % 16 == 3)


def pair(shadow: Shadow, number: int, candidate: Traits, live: Traits | None = None) -> Shadowed:
    return Shadowed(
        event_id=f"shadowed-{shadow.number}-{number}",
        at=float(number),
        number=shadow.number,
        version=shadow.version,
        candidate=candidate,
        live=live or usual(number),
    )


def answer(
    world: World,
    candidate: Callable[[int], Traits] = usual,
    prompts: int = 32,
    live: Callable[[int], Traits] = usual,
) -> None:
    """Let gateways tell of so many prompts that the candidate answered as well."""
    shadow = world.decisions[-1].state.shadow
    assert shadow is not None
    world.log.append([entry(pair(shadow, i, candidate(i), live(i))) for i in range(prompts)]).result()

"""The tables of hearken.toml, each with its settings class."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from hearken.config.fields import Leaf, leaves, settings_of

SERVICE = "service"


@dataclass(frozen=True)
class Tables:
    """What the file may hold. `classes`: table -> settings class; `roles`: those that [service] fills.

    A role's setting that nobody gave takes what [service] says under the same name, or that of `renamed`.
    """

    classes: Mapping[str, type]
    roles: tuple[str, ...] = ("gateway", "controller", "learner", "sft", "judge", "revise", "listen")
    renamed: Mapping[str, str] = field(default_factory=lambda: {"learner.engine": "service.engines"})

    @functools.cached_property
    def leaves(self) -> dict[str, Leaf]:
        """Every setting by its path, such as "learner.ppo.clip", in the classes' order."""
        return {leaf.path: leaf for table, kind in self.classes.items() for leaf in leaves(table, kind)}

    @functools.cached_property
    def parts(self) -> dict[str, type]:
        """Every table with its class, those in tables too: "learner.ppo"."""
        return {path: kind for table, own in self.classes.items() for path, kind in _parts(table, own)}

    def shared(self, path: str) -> str | None:
        """The path in [service] that a role's setting falls back to, if there is one."""
        table, _, name = path.partition(".")
        shared = self.renamed.get(path, f"{SERVICE}.{name}")
        return shared if table in self.roles and shared in self.leaves else None


def _parts(path: str, kind: type) -> list[tuple[str, type]]:
    inner = [(f"{path}.{each.name}", each.table) for each in settings_of(kind)]
    return [(path, kind), *(part for name, table in inner if table for part in _parts(name, table))]


@functools.cache
def tables() -> Tables:
    """Those of hearken."""
    from deploy.settings import ControllerSettings
    from hearken.ai_judge import JudgeSettings
    from hearken.data.reviser import ReviseSettings
    from hearken.data.turn_reader import ListenSettings
    from hearken.settings import DemoSettings, EngineSettings, ServiceSettings
    from learner.settings import FineTuningSettings, LearnerSettings
    from serve.settings import GatewaySettings

    return Tables(
        {
            SERVICE: ServiceSettings,
            "gateway": GatewaySettings,
            "controller": ControllerSettings,
            "learner": LearnerSettings,
            "engine": EngineSettings,
            "demo": DemoSettings,
            "sft": FineTuningSettings,
            "judge": JudgeSettings,
            "revise": ReviseSettings,
            "listen": ListenSettings,
        }
    )

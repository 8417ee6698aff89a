"""`hearken sft`: an adapter from demonstrations, published as version 0, which the service starts with."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.registry.bucket import COPIES
from deploy.registry.errors import RegistryAway, RegistryError
from deploy.registry.manifest import GateNumbers, Manifest
from deploy.registry.registries import open_registry
from deploy.registry.registry import Registry
from feedback.core.events import BASE, RELEASES
from feedback.dialects import Options
from feedback.dialects.files import Survey
from feedback.exchange.import_report import Report
from feedback.opening import open_log
from feedback.rows.examples import Example
from hearken.base.errors import UsageError
from hearken.data.importing import encoder
from learner.settings import FineTuningSettings

if TYPE_CHECKING:
    from learner.model.shared import SharedModel
    from learner.sft.fine_tuning import FineTuningReport

Item = tuple[list[int], list[int]]


@dataclass(frozen=True, slots=True)
class SftSettings:
    """What `hearken sft` was told. `rank`, `base_bits`: the learner's; rank None follows the model."""

    model: Path
    demonstrations: tuple[Path, ...]
    data: Path
    training: FineTuningSettings
    kafka: str | None = None
    registry: str | None = None
    registry_copies: int = COPIES
    rank: int | None = None
    base_bits: int = 16
    layout: str = "auto"


def run(settings: SftSettings) -> int:
    """Train, publish, and say what came of it. Raises `UsageError`."""
    registry = open_registry(settings.data, settings.registry, settings.registry_copies)
    try:
        _check_is_new(settings, registry)
    except RegistryAway as error:
        raise UsageError(f"the registry cannot be used: {error}", code=1) from error
    items, reports = _items(settings)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from learner.model.machine import keep_freed_memory
    from learner.model.shared import SharedModel
    from learner.sft.fine_tuning import fine_tune

    console = Console()
    keep_freed_memory()
    model = SharedModel.fitting(str(settings.model), rank=settings.rank, base_bits=settings.base_bits)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("Fine-tuning", total=None)

        def progress(step: int, steps: int, loss: float) -> None:
            bars.update(task, completed=step, total=steps, description=f"Fine-tuning (loss {loss:.2f})")

        report = fine_tune(model, items, settings.training, progress)
    for line in (line for each in reports for line in each.lines()):
        console.print(line, soft_wrap=True, highlight=False)
    console.print(
        f"{report.demonstrations} demonstrations, {report.held_out} held out: "
        f"loss {report.loss_before:.3f} -> {report.loss_after:.3f} nats per token (epoch {report.epoch})",
        soft_wrap=True,
    )
    if report.epoch == 0:
        raise UsageError(
            "no epoch was better than the base on what was held out; nothing was published", code=1
        )
    manifest = _publish(registry, model, report)
    console.print(f"published {manifest.version}: the service will start with it", soft_wrap=True)
    return 0


def _publish(registry: Registry, model: "SharedModel", report: "FineTuningReport") -> Manifest:
    try:
        return publish_first(registry, model, report)
    except (RegistryAway, RegistryError) as error:
        raise UsageError(f"what was trained could not be published: {error}", code=1) from error


def publish_first(registry: Registry, model: "SharedModel", report: "FineTuningReport") -> Manifest:
    """Put a policy that was fine-tuned on demonstrations into the registry as version 0."""
    from learner.policy.candidate import publish
    from learner.policy.probing import make_probes

    return publish(
        registry,
        model,
        parent=BASE,
        training={"demonstrations": report.demonstrations, "sft_steps": report.steps},
        offsets={},
        gate=GateNumbers(),
        probes=make_probes(model),
        first=True,
    )


def _check_is_new(settings: SftSettings, registry: Registry) -> None:
    """Version 0 is what a service starts from, so there must be none yet and nothing that started."""
    if (settings.data / "learner" / "checkpoint").exists():
        raise UsageError(f"a learner of {settings.data} has started already; version 0 needs one that is new")
    if known := registry.versions():
        raise UsageError(f"{registry.where} has {known[-1]} already; version 0 needs a service that is new")
    log = open_log(settings.data, settings.kafka, "sft")
    try:
        records, _ = log.read([RELEASES], {}, 1, 0.0)
    finally:
        log.close()
    if records:
        raise UsageError(
            f"the service of {settings.data} has started already; version 0 needs one that is new"
        )


def _items(settings: SftSettings) -> tuple[list[Item], list[Report]]:
    """Demonstrations as (prompt, answer) token ids, and what became of the files' rows."""
    encode = encoder(settings.model)
    items: list[Item] = []
    survey = Survey(settings.demonstrations, Options(layout=settings.layout))
    files = zip(settings.demonstrations, survey.rows, strict=True)
    reports = [Report(str(file), rows) for file, rows in files]
    for found in survey.examples():
        report, example = reports[found.file], found.said
        if found.row == 0:
            raise UsageError(str(example))
        if not isinstance(example, Example):
            report.skip(str(example), found.row)
            continue
        try:
            prompt, answer = encode(example.messages, example.answers[0])
        except ValueError as why:
            report.skip(str(why), found.row)
            continue
        if example.kind not in ("demonstration", "correction"):
            report.skip(f"a {example.kind} is no demonstration", found.row)
        elif len(prompt) + len(answer) > settings.training.max_tokens:
            report.skip(f"longer than {settings.training.max_tokens} tokens", found.row)
        else:
            items.append((prompt, answer))
            report.imported[example.kind] += 1
    if len(items) < 2:
        told = " ".join(line.strip() for report in reports for line in report.lines())
        raise UsageError(f"at least 2 demonstrations are needed. {told}")
    return items, reports

"""`hearken demo`: the whole service, simulated users who like something, and a view of it learning that."""

import math
import os
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live

from deploy.engines.client import EngineClient
from deploy.engines.thoughts import thoughts_of
from deploy.history.releases import read_history
from deploy.registry.errors import RegistryError
from deploy.registry.registry import Registry
from feedback.core.events import BASE, FEEDBACK
from feedback.core.files import cache_folder
from feedback.core.log import EventLog, LogError
from feedback.opening import open_log
from hearken.base import checks
from hearken.base.errors import UsageError
from hearken.config.assemble import PACE_ORIGIN, assemble
from hearken.config.follow import follow
from hearken.config.layers import Given, Layer
from hearken.data.audit import Audit, audit, wait_until_read
from hearken.demo import progress, report
from hearken.demo.evaluate import Evaluation, evaluate, mean_utility
from hearken.demo.patience import Patience
from hearken.demo.persona import Persona
from hearken.demo.sampler import Sampler
from hearken.demo.simulate import Crowd, CrowdThread, SimulatedUsers, Tally
from hearken.demo.watch import Watch
from hearken.demo.worlds import World, world_of
from hearken.machine import engine
from hearken.service import up
from hearken.service.plan import UpSettings
from hearken.service.supervisor import ChildFailed
from hearken.settings import DemoSettings

if TYPE_CHECKING:
    from hearken.story.series import Story

LINE_SECONDS = 10.0
VIEW_SECONDS = 1.0
KEPT_FOLDERS = 3
SETTLE_SECONDS = 45.0
STORY_SECONDS = 60.0
"""How long reading the run's votes may take at the end."""
PAGE = "report.html"
"""The run's page in the demo's data folder."""


def fresh_folder() -> Path:
    """A new folder under the cache, so that each demo begins with the base. The oldest ones are removed."""
    cache = cache_folder() / "demos"
    for old in sorted(cache.glob("*-*"))[: -(KEPT_FOLDERS - 1)]:
        with suppress(UsageError), checks.only_one(old):  # one that still runs is left alone
            shutil.rmtree(old, ignore_errors=True)
    return cache / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def configure(asked: Layer, file: Path | None) -> tuple[DemoSettings, UpSettings]:
    """What the demo was told, and the service that it runs. `asked`: the flags; `file`: --config.

    The demo's data, log and pace take the place of the service's, which must not hear of users that are not
    real. Raises UsageError.
    """
    settings: DemoSettings = assemble([asked], file).build("demo")
    data = (settings.data or fresh_folder()).expanduser().resolve()
    if (data / "keys.json").exists():
        raise UsageError(f"{data} has API keys, and the demo's users have none; pass another --data DIR")
    own: dict[str, object] = {
        "service.data": data,
        "service.kafka": settings.kafka,
        "service.redis": settings.redis,
        "service.registry": None,
        "service.fetch_port": None,
        "service.pace": settings.pace,
        "gateway.keys": None,
    }
    layer = {path: Given(value, "[demo]") for path, value in own.items()}
    return settings, UpSettings.of(assemble([layer, asked], file))


def run(settings: DemoSettings, service_settings: UpSettings) -> int:
    """Run the demo. Returns the exit code; raises UsageError for what the user can mend."""
    if settings.persona is not None:
        load_persona(settings.persona)  # refused now, rather than when the model is there
    if settings.report is not None:
        check_report(settings.report)
    console = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    stopping = threading.Event()
    data = service_settings.data
    checks.prepare_data(data)
    with checks.only_one(data), up.stop_on_signals(stopping):
        up.check(service_settings, say)
        cuda = engine.use_cuda()
        checks.ensure_secret(data)
        model = up.choose_model(service_settings, say)
        world = world_of(model)
        persona = load_persona(settings.persona or world.persona)
        service_settings = _for_world(service_settings, world, model, cuda)
        service = up.Service(service_settings, model, cuda, say, up.spinner(say), stopping)
        try:
            service.start()
            say(up.banner(service_settings))
            Demo(settings, world, persona, service, stopping, console).run()
            return 0
        except up.Interrupted:
            return 130
        except ChildFailed as error:
            raise up.failure(error) from error
        finally:
            say("stopping ...")
            service.stop()


def _for_world(settings: UpSettings, world: World, model: Path, cuda: bool) -> UpSettings:
    """The service's settings as suits the world, where the operator said nothing else.

    That is the world's pace, and a longest answer where users ask for none.
    """
    values = dict(world.service)
    if world.max_tokens is None:
        context: int = follow(settings.config, model, cuda).get("engine.max_model_len").value
        values["gateway.default_max_tokens"] = min(world.longest_answer, context)
    free = {path: value for path, value in values.items() if not _was_asked(settings, path)}
    config = settings.config.over({path: Given(value, "hearken demo") for path, value in free.items()})
    return replace(settings, config=config, gateway=config.build("gateway"))


def _was_asked(settings: UpSettings, path: str) -> bool:
    """Whether an operator gave a setting; the pace gives some, too."""
    given = settings.config.asked(path)
    return given is not None and not given.origin.startswith(PACE_ORIGIN)


def load_persona(name: str) -> Persona:
    """A shipped persona by its name, or one from a JSON file. Raises UsageError."""
    shipped = Path(__file__).parents[1] / "personas"
    path = Path(name).expanduser()
    if not path.exists() and "/" not in name:
        path = shipped / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in shipped.glob("*.json")))
        raise UsageError(f"no persona {name}: neither a file nor one of {known} (--persona)")
    try:
        return Persona.load(path)
    except (ValueError, OSError) as error:
        raise UsageError(f"persona {error}") from error


def check_report(path: Path) -> None:
    """Raises UsageError when no report can be written there: better now than after ten minutes."""
    if path.is_dir():
        raise UsageError(f"--report {path} is a folder; name a file")
    if path.suffix == ".html":
        raise UsageError(
            f"--report {path} would be overwritten by the page that is written beside it; name r.json"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a"):
            pass
    except OSError as error:
        raise UsageError(f"--report {path} cannot be written: {error.strerror}") from error


class Demo:
    """The part that begins when the service is ready."""

    def __init__(
        self,
        settings: DemoSettings,
        world: World,
        persona: Persona,
        service: up.Service,
        stopping: threading.Event,
        console: Console,
    ) -> None:
        self._settings, self._up = settings, service.settings
        self._world = world
        self._persona = persona
        self._service = service
        self._stopping = stopping
        self._console = console
        self._failed: ChildFailed | None = None  # what can no longer be kept running
        self._crowd = Crowd(
            users=settings.users,
            concurrency=settings.concurrency or world.concurrency,
            think_seconds=world.think_seconds,
            world=world,
            seed=self._up.seed,
        )
        self._engine = EngineClient(
            self._up.engine_url, timeout=world.patience_seconds, thoughts=thoughts_of(service.model)
        )
        self._patience = Patience(self._up.engine_url, self._goes_on, stopping, self._say)
        self._log: EventLog = open_log(self._up.data, self._up.kafka, "demo")
        self._watch = Watch(self._up.metrics_urls, self._log)

    def run(self) -> None:
        """Users for the given minutes, then the evaluation and the report, then service until Ctrl-C."""
        try:
            self._run()
        finally:
            self._watch.close()
            self._log.close()
            self._engine.close()
            self._patience.close()

    def _run(self) -> None:
        began = time.monotonic()
        usual = self._usual_utility()
        users = CrowdThread(SimulatedUsers(self._up.url, self._persona, usual, self._crowd))
        users.start()
        try:
            self._follow(users, usual, began)
        finally:
            self._see_off(users)
        self._report(users.tally, time.monotonic() - began)
        if users.error is not None:
            raise users.error
        if not self._settings.exit and self._goes_on():
            self._say(f"the users have left; the service goes on at {self._up.url}/ until Ctrl-C")
            while self._goes_on():
                self._stopping.wait(0.3)
        if self._failed is not None:
            raise self._failed

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def _goes_on(self) -> bool:
        """Look after the processes; False once one cannot be kept running, or the user asked to stop."""
        if self._failed is None:
            try:
                self._service.poll()
            except ChildFailed as error:
                self._failed = error
                self._say(f"{error}; what there is will be reported")
        return self._failed is None and not self._stopping.is_set()

    def _usual_utility(self) -> float:
        """Raises what keeps the engine from answering, or Interrupted."""
        world = self._world
        conversations = world.prompts(world.usual_prompts, self._up.seed + 1)
        usual = self._patience.ask(
            lambda: BASE,
            lambda _: mean_utility(self._engine, conversations, self._persona.utility, world.longest_answer),
        )
        if usual is not None:
            return usual
        if self._failed is not None:
            raise self._failed
        if self._stopping.is_set():
            raise up.Interrupted
        raise UsageError("the engine does not answer; its log says why", code=1)

    # -- while the users are there ----------------------------------------------------------------------

    def _follow(self, users: CrowdThread, usual: float, began: float) -> None:
        """Watch the service and show what happens until the time is up."""
        total = self._settings.minutes * 60
        sampler = Sampler(self._engine, self._world, self._up.seed)
        terminal = self._console.is_terminal
        pause = VIEW_SECONDS if terminal else LINE_SECONDS
        next_look = 0.0
        with Live(console=self._console, auto_refresh=False, transient=False) as live:
            while (elapsed := time.monotonic() - began) < total and not self._stopping.wait(0.5):
                if not self._goes_on() or users.error is not None:
                    break
                if elapsed < next_look:
                    continue
                next_look = elapsed + pause
                if terminal:
                    sampler.refresh(self._watch.live)
                snapshot = self._watch.look(elapsed, total, users.tally, usual, sampler.newest)
                if terminal:
                    live.update(progress.render(snapshot), refresh=True)
                else:
                    self._say(progress.line(snapshot))
        sampler.close()

    def _see_off(self, users: CrowdThread) -> None:
        """Let the visits that have begun end, unless nobody can serve them or the user is in a hurry."""
        users.leave()
        while users.is_there and self._goes_on():
            self._stopping.wait(0.3)
        users.stop()

    # -- afterwards -------------------------------------------------------------------------------------

    def _report(self, tally: Tally, seconds: float) -> None:
        """Evaluate (unless the user is in a hurry), print the result and write the report."""
        evaluation = None if self._stopping.is_set() else self._evaluate()
        data, audited, story = self._up.data, self._audit(), self._story()
        built = report.build(
            report.Run(
                seconds=seconds,
                persona=self._persona.name,
                world=self._world.name,
                tally=tally,
                decisions=[] if story is None else list(story.decisions),
                evaluation=evaluation,
                kl_budget_nats=self._kl_budget_nats(evaluation),
                rollouts_cut_off=self._watch.rollouts_cut_off,
                audit=audited,
                votes_in_log=self._votes_in_log(),
            ),
            Registry(data / "adapters"),
        )
        self._say(report.summary(built))
        if self._settings.report is not None:
            report.write(self._settings.report, built)
            self._say(f"the report is in {self._settings.report}")
        if story is not None:
            self._write_pages(story, built)

    def _evaluate(self) -> Evaluation | None:
        world, seed = self._world, self._up.seed
        conversations = world.prompts(world.fresh_prompts, seed + 2, held_out=True)

        def compare(version: str) -> Evaluation:
            self._say(f"comparing {version} with the base on {world.fresh_prompts} fresh prompts ...")
            utility, longest = self._persona.utility, world.longest_answer
            return evaluate(self._engine, version, conversations, utility, longest, world.kl_samples)

        evaluation = self._patience.ask(self._live_version, compare)
        if evaluation is None and not self._stopping.is_set():
            self._say("there is no comparison with the base: the engine was away")
        return evaluation

    def _live_version(self) -> str:
        """The version that is live as far as the log can tell."""
        with suppress(LogError):
            state = read_history(self._log, 1).state
            return BASE if state is None else state.table.live
        return self._watch.live

    def _story(self) -> "Story | None":
        """All that the log says of the run: the report's decisions and the page are of one reading."""
        from hearken.story.log import read_story  # it needs numpy, which nobody does while users are there

        try:
            return read_story(self._log, None, STORY_SECONDS)
        except LogError as error:
            self._say(f"the log cannot be read for the report: {error}")
            return None

    def _write_pages(self, story: "Story", built: dict[str, Any]) -> None:
        """The page of the run, in the data folder and beside the report."""
        from hearken.story.page import page
        from hearken.story.series import told

        asked = self._settings.report
        paths = [self._up.data / PAGE, *([] if asked is None else [asked.with_suffix(".html")])]
        text = page(told(story), built)
        for path in paths:
            try:
                path.write_text(text)
            except OSError as error:
                self._say(f"the page of the run cannot be written to {path}: {error.strerror}")
            else:
                self._say(f"the page of the run is in {path}")

    def _audit(self) -> Audit | None:
        """Whether every vote was used once, asked when the learner has read them all, or time is up."""
        deadline = time.monotonic() + SETTLE_SECONDS
        try:
            while self._goes_on() and time.monotonic() < deadline:
                if wait_until_read(self._log, self._up.data, 1.0, self._stopping):
                    break
            return audit(self._log, self._up.data)
        except LogError as error:
            self._say(f"the votes cannot be checked: {error}")
            return None

    def _votes_in_log(self) -> int | None:
        try:
            return sum(self._log.end([FEEDBACK], 10.0).values())
        except LogError as error:
            self._say(f"the votes in the log cannot be counted: {error}")
            return None

    def _kl_budget_nats(self, evaluation: Evaluation | None) -> float:
        """The most KL to the base that the live version may have, in answers as long as those compared."""
        from learner.monitor.lengths import kl_limit, kl_limit_at

        if evaluation is not None and evaluation.version != BASE:
            with suppress(RegistryError):  # its files may be gone: there is a report all the same
                gate = Registry(self._up.data / "adapters").manifest(evaluation.version).gate
                if math.isfinite(gate.kl_budget_nats_base):  # a version 0 met no gate
                    return kl_limit_at(gate.kl_budget_nats_base, gate.response_tokens, evaluation.tokens_live)
        tokens = 0.0 if evaluation is None else evaluation.tokens_live
        return kl_limit(self._up.config.get("learner.kl_budget_nats").value, tokens)

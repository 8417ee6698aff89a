"""`hearken demo`: the whole service, simulated users who like something, and a view of it learning that."""

import os
import shutil
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live

from deploy.engine import EngineClient, EngineError
from deploy.registry import Registry
from deploy.releases import read_history
from deploy.thoughts import thoughts_of
from feedback.events import FEEDBACK
from feedback.files import cache_folder
from feedback.log import EventLog
from feedback.opening import open_log
from hearken import checks, engine, progress, report, up
from hearken.audit import audit, wait_until_read
from hearken.errors import UsageError
from hearken.evaluate import Evaluation, evaluate, mean_utility, sample, tokenize
from hearken.paces import learner_pace
from hearken.persona import Persona
from hearken.simulate import Crowd, CrowdThread, SimulatedUsers, Tally
from hearken.supervisor import ChildFailed
from hearken.support_desk import prompts
from hearken.watch import Watch

USUAL_PROMPTS = 128
FRESH_PROMPTS = 400
LINE_SECONDS = 10.0
VIEW_SECONDS = 1.0
SAMPLE_SECONDS = 20.0
KEPT_FOLDERS = 3
SETTLE_SECONDS = 45.0


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What `hearken demo` can be told."""

    up: up.UpSettings
    minutes: float = 10.0
    persona: str = "friendly"
    users: int = 5000
    concurrency: int = 5
    report: Path | None = None
    exit: bool = False


def fresh_folder() -> Path:
    """A new folder under the cache, so that each demo begins with the base. The oldest ones are removed."""
    cache = cache_folder() / "demos"
    for old in sorted(cache.glob("*-*"))[: -(KEPT_FOLDERS - 1)]:
        with suppress(UsageError), checks.only_one(old):  # one that still runs is left alone
            shutil.rmtree(old, ignore_errors=True)
    return cache / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def run(settings: DemoSettings) -> int:
    """Run the demo. Returns the exit code; raises UsageError for what the user can mend."""
    persona = load_persona(settings.persona)
    if not settings.minutes > 0:
        raise UsageError(f"--minutes is {settings.minutes:g}; it must be above 0")
    if settings.report is not None:
        check_report(settings.report)
    console = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    stopping = threading.Event()
    data = settings.up.data
    checks.prepare_data(data)
    with checks.only_one(data), up.stop_on_signals(stopping):
        up.check(settings.up, say)
        cuda = engine.use_cuda()
        checks.ensure_secret(data)
        model = up.choose_model(settings.up, say)
        service = up.Service(settings.up, model, cuda, say, up.spinner(say), stopping)
        try:
            service.start()
            say(up.banner(settings.up))
            Demo(settings, persona, service, stopping, console).run()
            return 0
        except up.Interrupted:
            return 130
        except ChildFailed as error:
            raise up.failure(error) from error
        finally:
            say("stopping ...")
            service.stop()


def load_persona(name: str) -> Persona:
    """A shipped persona by its name, or one from a JSON file. Raises UsageError."""
    shipped = Path(__file__).parent / "personas"
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
        persona: Persona,
        service: up.Service,
        stopping: threading.Event,
        console: Console,
    ) -> None:
        self._settings = settings
        self._persona = persona
        self._service = service
        self._stopping = stopping
        self._console = console
        self._crowd = Crowd(users=settings.users, concurrency=settings.concurrency, seed=settings.up.seed)
        self._engine = EngineClient(settings.up.engine_url, thoughts=thoughts_of(service.model))
        self._log: EventLog = open_log(settings.up.data, settings.up.kafka, "demo")
        self._watch = Watch(settings.up.metrics_urls, self._log)

    def run(self) -> None:
        """Users for the given minutes, then the evaluation and the report, then service until Ctrl-C."""
        try:
            self._run()
        finally:
            self._watch.close()
            self._log.close()
            self._engine.close()

    def _run(self) -> None:
        began = time.monotonic()
        usual = self._usual_utility()
        users = CrowdThread(SimulatedUsers(self._settings.up.url, self._persona, usual, self._crowd))
        users.start()
        try:
            self._follow(users, usual, began)
        finally:
            users.stop()
        self._report(users.tally, time.monotonic() - began)
        if not self._settings.exit and not self._stopping.is_set():
            self._say(f"the users have left; the service goes on at {self._settings.up.url}/ until Ctrl-C")
            while not self._stopping.wait(0.3):
                self._service.poll()

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def _usual_utility(self) -> float:
        questions = prompts(USUAL_PROMPTS, self._settings.up.seed + 1)
        return mean_utility(self._engine, questions, self._persona.utility, self._crowd.max_tokens)

    # -- while the users are there ----------------------------------------------------------------------

    def _follow(self, users: CrowdThread, usual: float, began: float) -> None:
        """Watch the service and show what happens until the time is up."""
        total = self._settings.minutes * 60
        sampler = Sampler(self._engine, self._crowd.max_tokens, self._settings.up.seed)
        terminal = self._console.is_terminal
        pause = VIEW_SECONDS if terminal else LINE_SECONDS
        next_look = 0.0
        with Live(console=self._console, auto_refresh=False, transient=False) as live:
            while (elapsed := time.monotonic() - began) < total and not self._stopping.wait(0.5):
                self._service.poll()
                if users.error is not None:
                    break  # `stop` raises it
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

    # -- afterwards -------------------------------------------------------------------------------------

    def _report(self, tally: Tally, seconds: float) -> None:
        """Evaluate (unless the user is in a hurry), print the result and write the report."""
        evaluation = None if self._stopping.is_set() else self._evaluate()
        wait_until_read(self._log, self._settings.up.data, SETTLE_SECONDS, self._stopping)
        history = read_history(self._log, 1_000_000)
        run = report.Run(
            seconds=seconds,
            persona=self._persona.name,
            tally=tally,
            decisions=list(history.decisions),
            evaluation=evaluation,
            kl_budget_nats=self._kl_budget_nats(),
            audit=audit(self._log, self._settings.up.data),
            votes_in_log=sum(self._log.end([FEEDBACK], 10.0).values()),
        )
        built = report.build(run, Registry(self._settings.up.data / "adapters"))
        self._say(report.summary(built))
        if self._settings.report is not None:
            report.write(self._settings.report, built)
            self._say(f"the report is in {self._settings.report}")

    def _evaluate(self) -> Evaluation | None:
        version = self._live_version()
        self._say(f"comparing {version} with the base on {FRESH_PROMPTS} fresh prompts ...")
        questions = prompts(FRESH_PROMPTS, self._settings.up.seed + 2, held_out=True)
        try:
            return evaluate(self._engine, version, questions, self._persona.utility, self._crowd.max_tokens)
        except EngineError as error:
            self._say(f"the comparison failed: {error}")
            return None

    def _live_version(self) -> str:
        state = read_history(self._log, 1).state
        return "base" if state is None else state.table.live

    def _kl_budget_nats(self) -> float:
        from learner.settings import LearnerSettings

        asked = self._settings.up.kl_budget_nats
        pace = learner_pace(self._settings.up.pace)
        known = LearnerSettings(
            data=self._settings.up.data, model="", engine=self._settings.up.engine_url, **pace
        )
        return known.kl_budget_nats if asked is None else asked


class Sampler:
    """Asks base and live the same question now and then, in the background."""

    def __init__(self, client: EngineClient, max_tokens: int, seed: int) -> None:
        self.newest: tuple[str, str, str] | None = None
        self._engine = client
        self._max_tokens = max_tokens
        self._questions = prompts(1000, seed + 3, held_out=True)
        self._pool = ThreadPoolExecutor(1)
        self._asked: Future[tuple[str, str, str]] | None = None
        self._next_at = 0.0

    def refresh(self, version: str) -> None:
        """Take the answers that are there, and ask again when it is time."""
        if self._asked is not None and self._asked.done():
            with suppress(EngineError, OSError):  # an engine that restarts has nothing to say
                self.newest = self._asked.result()
            self._asked = None
        if self._asked is None and time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + SAMPLE_SECONDS
            self._asked = self._pool.submit(self._ask, version, self._questions.pop())

    def close(self) -> None:
        self._pool.shutdown()

    def _ask(self, version: str, question: str) -> tuple[str, str, str]:
        ids = tokenize(self._engine.url, [question])
        base = sample(self._engine, "base", ids, self._max_tokens)[0].text
        live = base if version == "base" else sample(self._engine, version, ids, self._max_tokens)[0].text
        return question, base, live

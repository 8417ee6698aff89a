"""`hearken watch`: looks at a running service again and again, and draws what it sees on the terminal."""

import os
import threading
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.live import Live

from deploy.settings import ControllerSettings
from feedback.core.log import LogError
from hearken.base.errors import UsageError
from hearken.live.frame import render
from hearken.live.sources import Away, FromLog, OverHttp, Seen, Source
from hearken.operate.log import opened, service_folder
from hearken.service.up import stop_on_signals
from hearken.settings import ServiceSettings

VARIABLE = "HEARKEN_KEY"
"""Has the key for a URL: on a command line every user of the machine could read it."""


def source_of(where: str | None, service: ServiceSettings, controller: ControllerSettings) -> Source:
    """What to look at. where: a gateway's URL or a data folder; None: the folder of the settings.

    Raises UsageError.
    """
    if where is not None and "://" in where:
        if not where.startswith(("http://", "https://")):
            raise UsageError(f"{where} is no address of a gateway; write http://HOST:PORT or https://HOST")
        return OverHttp(where, os.environ.get(VARIABLE) or None)
    folder = service_folder(service.folder if where is None else Path(where))
    return FromLog(
        str(folder), opened(folder, service.kafka), controller.guardrails, controller.release_rules
    )


def watch(source: Source, every_seconds: float, *, once: bool, console: Console | None = None) -> int:
    """Draw frames until Ctrl-C, or one. Gives 1 when `once` finds nothing to see. Raises UsageError.

    Where the output is no terminal, frames are printed one below the other.
    """
    console = console or Console(highlight=False)
    stopping = threading.Event()
    with closing(source), stop_on_signals(stopping):
        if once:
            try:
                console.print(render(_look(source)))
            except Away as why:
                raise UsageError(str(why), code=1) from why
            return 0
        with Live(console=console, auto_refresh=False, screen=False) as live:
            _follow(source, live, every_seconds, stopping)
    return 0


def _follow(source: Source, live: Live, every_seconds: float, stopping: threading.Event) -> None:
    """Draw until `stopping` is set. What is away stays on the screen as it was, and why is said."""
    seen: Seen | None = None
    told = ""
    while not stopping.is_set():
        trouble = ""
        try:
            seen = _look(source)
        except Away as why:
            trouble = str(why)
        if seen is not None and live.console.is_terminal:
            live.update(render(seen, trouble), refresh=True)
        elif seen is not None:
            live.console.print(render(seen, trouble))
        elif trouble != told:
            live.console.print(f"{trouble}; trying again", markup=False, soft_wrap=True)
        told = trouble
        stopping.wait(every_seconds)


def _look(source: Source) -> Seen:
    try:
        return source.look()
    except LogError as error:
        raise Away(f"the log cannot be read: {error}") from error

"""The pictures of README, of the thing as it is: what a demo with a real model left is opened in a browser.

    hearken demo --model smollm2 --minutes 20 --exit --data build/pictures
    python scripts/pictures.py build/pictures

writes run.png (the story of the run), watch.svg (the terminal's view), chat.png and operate.png into
docs/images. `make pictures` does both.
"""

import argparse
import io
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import Page, sync_playwright
from rich.console import Console

from hearken.live.sources import OverHttp
from hearken.live.view import watch

IMAGES = Path(__file__).parent.parent / "docs" / "images"
QUESTIONS = ("How do I get over jet lag quickly?", "And if I only stay for two days?")
START_SECONDS = 300.0
ANSWER_SECONDS = 300.0
ANSWER_TOKENS = (
    160  # a small model may repeat itself for ever: an answer has an end before its seconds are over
)
END_SECONDS = 60.0
WIDTH = 1100
COLUMNS = 100


def main() -> int:
    """Draw all four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, help="the data folder of a demo that has ended")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 760})
        page.goto((options.data / "report.html").absolute().as_uri())
        _save(page, "run.png", height=1030)
        with _service(options.model, options.data, options.port) as url:
            _terminal(url)
            _chat(page, url)
            page.goto(f"{url}/operate")
            page.get_by_text("serve", exact=False).first.wait_for()
            _save(page, "operate.png", height=1000)
        browser.close()
    return 0


def _chat(page: Page, url: str) -> None:
    page.set_viewport_size({"width": WIDTH, "height": 760})
    page.goto(url)
    for number, question in enumerate(QUESTIONS, start=1):
        page.locator("#question").fill(question)
        page.locator("#question").press("Enter")
        page.get_by_label("Good answer").nth(number - 1).wait_for(timeout=ANSWER_SECONDS * 1000)
    page.get_by_label("Good answer").first.click()
    _save(page, "chat.png", height=760)


def _terminal(url: str) -> None:
    """The frame of `hearken watch`, as an SVG that asks nobody for a font."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False)
    watch(OverHttp(url, None), 1.0, once=True, console=console)
    drawn = console.export_svg(title=f"hearken watch {url}")
    file = IMAGES / "watch.svg"
    file.write_text(re.sub(r"@font-face\s*{[^}]*}", "", drawn))
    print(file)


def _save(page: Page, name: str, height: int) -> None:
    page.set_viewport_size({"width": WIDTH, "height": height})
    page.screenshot(path=IMAGES / name)
    print(IMAGES / name)


@contextmanager
def _service(model: str, data: Path, port: int) -> Iterator[str]:
    """The demo's service, which goes on where the demo ended."""
    command = [sys.executable, "-m", "hearken", "up", "--model", model, "--data", str(data)]
    limit = ["--default-max-tokens", str(ANSWER_TOKENS)]
    process = subprocess.Popen([*command, "--port", str(port), *limit])
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
    try:
        while not _is_ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the service did not start")
            time.sleep(0.5)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(url: str) -> bool:
    try:
        with urlopen(f"{url}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


if __name__ == "__main__":
    raise SystemExit(main())

"""The widget on a page of another origin, in a real browser: no key, votes by the answer's token."""

import gzip
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.serve import axe
from tests.serve.conftest import Gateway, Start, eventually
from tests.serve.operating import photograph
from tests.serve.test_access import add_key, bearer

pytestmark = pytest.mark.browser

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<title>A shop</title>
<main><h1>A shop</h1><p>{answer}</p>
<script type="module" src="{gateway}/feedback.js"></script>
<hearken-feedback completion="{completion}" token="{token}" answer="{answer}"></hearken-feedback></main>
<script>addEventListener("hearken-feedback", (event) => (window.told = event.detail))</script>"""


class _Pages(BaseHTTPRequestHandler):
    """Serves one page, under the policy of a careful site."""

    page: str
    gateway: str

    def do_GET(self) -> None:
        body = self.page.encode() if self.path == "/" else b""
        self.send_response(200 if body else 404)
        self.send_header("content-type", "text/html")
        policy = f"default-src 'none'; script-src {self.gateway} 'unsafe-inline'; connect-src {self.gateway}"
        self.send_header("content-security-policy", policy)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing to stderr."""


@pytest.fixture
def site() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Pages", (_Pages,), {"page": "", "gateway": ""}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


Shop = Callable[..., tuple[Page, Gateway]]


@pytest.fixture
def shop(browser: Browser, site: ThreadingHTTPServer, start: Start, tmp_path: Path) -> Iterator[Shop]:
    """Opens the page of a shop that asked with its key, on its server; the page has the answer's token. Takes
    the browser's options."""
    opened: list[tuple[Page, list[str]]] = []

    def open_page(**options: Any) -> tuple[Page, Gateway]:
        key = add_key(tmp_path / "keys.json", ["chat"])
        gateway = start()
        body = {"model": "hearken", "messages": [{"role": "user", "content": "hi"}], "user": "ada"}
        answer = gateway.http.post("/v1/chat/completions", json=body, headers=bearer(key)).json()
        handler: type[_Pages] = site.RequestHandlerClass  # type: ignore[assignment]
        handler.gateway = gateway.url
        handler.page = PAGE.format(
            gateway=gateway.url,
            completion=answer["id"],
            token=answer["hearken"]["feedback_token"],
            answer=answer["choices"][0]["message"]["content"],
        )
        assert key not in handler.page
        page, complaints = browser.new_page(**options), []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        opened.append((page, complaints))
        page.goto(f"http://127.0.0.1:{site.server_port}")
        return page, gateway

    yield open_page
    for page, complaints in opened:
        page.close()
        assert [c for c in complaints if "Failed to load resource" not in c] == []


def test_thumbs_reasons_and_taking_it_back(shop: Shop) -> None:
    page, gateway = shop()
    down = page.get_by_role("button", name="Bad answer")
    down.click()
    expect(down).to_have_attribute("aria-pressed", "true")
    page.get_by_label("too long").check()
    page.get_by_role("button", name="Send").first.click()
    expect(page.get_by_role("status")).to_have_text("Thank you.")
    eventually(lambda: len(gateway.votes()) == 2, "the vote with its reason")
    first, second = gateway.votes()
    assert (first.label, second.label, second.reasons) == ("down", "down", ["too_long"])
    assert first.event_id == second.event_id
    assert first.rater == gateway.signer.pseudonym("default", "ada")  # whom the token was given for
    assert page.evaluate("window.told.id") == first.event_id
    down.click()
    expect(page.get_by_role("status")).to_have_text("Your vote was taken back.")
    expect(down).to_have_attribute("aria-pressed", "false")
    assert gateway.votes()[-1].kind == "retraction"


def test_the_service_says_which_reasons_there_are_and_the_page_may_name_others(
    shop: Shop, browser: Browser
) -> None:
    page, _ = shop()
    page.get_by_role("button", name="Bad answer").click()
    expect(page.get_by_role("checkbox")).to_have_count(11)
    expect(page.get_by_label("too long")).to_be_visible()
    expect(page.get_by_label("helpful")).to_have_count(0)  # nobody says so of a bad answer
    widget = page.locator("hearken-feedback")
    for named, count in (("style,unsafe", 2), ("", 0)):
        page.get_by_role("button", name="Bad answer").click()
        expect(page.get_by_role("status")).to_have_text("Your vote was taken back.")
        widget.evaluate("(element, named) => element.setAttribute('reasons', named)", named)
        page.get_by_role("button", name="Bad answer").click()
        expect(page.get_by_role("status")).to_have_text("Thank you.")
        expect(page.get_by_role("checkbox")).to_have_count(count)


def test_a_correction_by_keyboard_alone(shop: Shop) -> None:
    page, gateway = shop()
    page.get_by_role("button", name="Good answer").wait_for()
    for _ in range(3):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.shadowRoot.activeElement.textContent") == (
        "Suggest a better answer"
    )
    page.keyboard.press("Enter")
    box = page.get_by_label("What it should have said")
    expect(box).to_be_focused()
    page.keyboard.press("Control+End")
    page.keyboard.type(" And more.")
    expect(page.locator("ins")).to_contain_text("And more.")
    expect(page.get_by_text("0 removed, 2 added")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("Thank you for the better answer.")
    (vote,) = gateway.votes()
    assert vote.kind == "correction"
    assert (vote.text or "").endswith("And more.")
    expect(page.get_by_role("button", name="Suggest a better answer")).to_be_focused()


def test_escape_closes_and_gives_the_focus_back(shop: Shop) -> None:
    page, _ = shop()
    button = page.get_by_role("button", name="Suggest a better answer")
    button.click()
    expect(button).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Escape")
    expect(button).to_have_attribute("aria-expanded", "false")
    expect(button).to_be_focused()


def test_a_vote_that_cannot_be_stored_says_so(shop: Shop) -> None:
    page, gateway = shop()
    page.locator("hearken-feedback").evaluate("element => element.setAttribute('token', 'fbt_wrong.0')")
    up = page.get_by_role("button", name="Good answer")
    page.evaluate("console.warn = () => {}")
    up.click()
    expect(page.get_by_role("status")).to_have_text("This could not be sent. Please try again.")
    expect(up).to_have_attribute("aria-pressed", "false")
    assert gateway.votes() == []


@pytest.mark.parametrize("width", axe.WIDTHS)
@pytest.mark.parametrize("scheme", axe.SCHEMES)
def test_axe_finds_no_fault(shop: Shop, scheme: str, width: int) -> None:
    page, _ = shop(color_scheme=scheme, viewport={"width": width, "height": 800})
    page.evaluate("document.body.style.background = 'Canvas'")  # else axe takes it for white
    page.get_by_role("button", name="Bad answer").click()
    page.get_by_label("too long").check()
    page.get_by_role("button", name="Suggest a better answer").click()
    page.get_by_label("What it should have said").fill("I am better, seed 7.")
    expect(page.locator("ins").first).to_be_visible()
    expect(page.locator("del").first).to_be_visible()
    photograph(page, f"widget-{scheme}-{width}")
    assert axe.faults(page) == []


def test_the_widget_stays_small() -> None:
    source = Path(__file__).parents[2] / "serve" / "pages" / "feedback.js"
    assert len(gzip.compress(source.read_bytes(), 9)) <= 5000

"""The chat page in a real browser, over a real gateway."""

import os
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from feedback.core.events import Feedback
from tests.serve import axe
from tests.serve.conftest import Gateway, Start, eventually
from tests.serve.fake_vllm import EMOJI_TEXT, FakeVllm, Trouble
from tests.serve.operating import photograph, visiting

pytestmark = pytest.mark.browser
TEXT = "I am base, seed None."
MARKDOWN = """# Parcels

They come by [post](https://example.com), **mostly**:

- on `Monday`
- or later

> Patience.

| day | parcels |
|---|---|
| Monday | 3 |

    code that is long
"""


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def shown(page: Page, text: str) -> Locator:
    """A text in the conversation (screen readers are told it a second time, elsewhere)."""
    return page.get_by_role("log").get_by_text(text, exact=True)


def goes_on(page: Page, fake: FakeVllm) -> None:
    """Ask after the answer to `Trouble.EMOJI`: the engine is told of both."""
    ask(page, "and then?")
    expect(page.get_by_label("Good answer")).to_have_count(2)
    assert fake.requests[-1]["messages"] == [
        {"role": "user", "content": Trouble.EMOJI},
        {"role": "assistant", "content": EMOJI_TEXT},
        {"role": "user", "content": "and then?"},
    ]


def only_vote(gateway: Gateway) -> Feedback:
    (vote,) = gateway.votes()
    return vote


def test_a_thumb_on_a_streamed_answer_reaches_the_log(page: Page, gateway: Gateway) -> None:
    ask(page, "hi")
    expect(shown(page, TEXT)).to_be_visible()
    up, down = page.get_by_label("Good answer"), page.get_by_label("Bad answer")
    expect(up).to_have_attribute("aria-pressed", "false")
    up.click()
    expect(up).to_have_attribute("aria-pressed", "true")
    expect(shown(page, "Thanks, noted.")).to_be_visible()
    (completion,) = gateway.completions()
    vote = only_vote(gateway)
    assert (vote.targets[0].completion_id, vote.label) == (completion.completion_id, "up")
    assert vote.rater == completion.user

    down.click()
    expect(down).to_have_attribute("aria-pressed", "true")
    expect(up).to_have_attribute("aria-pressed", "false")
    eventually(lambda: len(gateway.votes()) == 2, "the changed vote")
    first, second = gateway.votes()
    assert (second.event_id, second.label) == (first.event_id, "down")


def test_the_conversation_goes_on_and_can_be_started_over(page: Page, fake: FakeVllm) -> None:
    ask(page, Trouble.EMOJI)
    expect(shown(page, EMOJI_TEXT)).to_be_visible()
    expect(page.get_by_label("Good answer")).to_be_visible()
    goes_on(page, fake)
    page.get_by_label("New conversation").click()
    expect(shown(page, EMOJI_TEXT)).to_have_count(0)
    ask(page, "hi")
    expect(page.get_by_label("Good answer")).to_be_visible()
    assert fake.requests[-1]["messages"] == [{"role": "user", "content": "hi"}]


def test_stopping_keeps_what_was_written_and_stops_the_engine(page: Page, fake: FakeVllm) -> None:
    ask(page, Trouble.HOLD)
    expect(shown(page, "I am")).to_be_visible()
    page.get_by_label("Stop", exact=True).click()
    expect(page.locator(".note", has_text="Stopped.")).to_be_visible()
    expect(shown(page, "I am")).to_be_visible()
    expect(page.get_by_label("Send")).to_be_visible()
    assert fake.aborted.wait(10)
    page.get_by_label("Bad answer").click()
    expect(shown(page, "Thanks, we will do better.")).to_be_visible()


def test_two_answers_are_compared_blind_by_mouse_and_by_key(page: Page, gateway: Gateway) -> None:
    page.get_by_role("button", name="Compare").click()
    for i, preferred in enumerate(("a", "b", "tie")):
        ask(page, "hi")
        ballot = page.get_by_role("group", name="Which answer is better?").nth(i)
        expect(ballot).to_be_focused()
        if preferred == "a":
            ballot.get_by_text("A is better").click()
        else:
            page.keyboard.press(preferred[0])
        expect(ballot.get_by_text("Thanks, your choice counts.")).to_be_visible()
        vote = gateway.votes()[i]
        assert vote.label == preferred
        (comparison,) = {c.comparison_id for c in gateway.completions()[2 * i :]}
        assert comparison is not None
        assert {t.completion_id for t in vote.targets} == {
            c.completion_id for c in gateway.completions() if c.comparison_id == comparison
        }
    expect(page.locator(".badge")).to_have_count(2)  # a tie marks neither


def test_trouble_is_told_in_words_and_can_be_tried_again(page: Page, fake: FakeVllm) -> None:
    ask(page, Trouble.DIE)
    expect(page.locator(".trouble", has_text="The answer broke off.")).to_be_visible()
    ask(page, Trouble.CRASH)
    trouble = page.locator(".trouble", has_text="cannot process this request")
    expect(trouble).to_be_visible()
    expect(page.get_by_role("button", name="Try again")).to_have_count(1)
    asked = len(fake.requests)
    page.get_by_role("button", name="Try again").click()
    eventually(lambda: len(fake.requests) == asked + 1, "asked again")
    # Questions that were never answered are no part of the conversation.
    assert fake.requests[-1]["messages"] == [{"role": "user", "content": Trouble.CRASH}]
    expect(trouble).to_be_visible()
    ask(page, Trouble.TOO_LONG)
    expect(page.locator(".trouble", has_text="too long for the model")).to_be_visible()
    page.locator(".trouble").get_by_role("button", name="New conversation").click()
    expect(page.locator(".trouble")).to_have_count(0)


def test_a_vote_that_fails_can_be_sent_again(page: Page, gateway: Gateway) -> None:
    ask(page, "hi")
    page.route("**/v1/feedback", lambda route: route.abort())
    page.get_by_label("Good answer").click()
    expect(page.locator(".said.failed")).to_be_visible()
    page.unroute("**/v1/feedback")
    page.get_by_role("button", name="Try again").click()
    expect(shown(page, "Thanks, noted.")).to_be_visible()
    assert only_vote(gateway).label == "up"


def test_text_is_never_html(page: Page, fake: FakeVllm) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
    ask(page, evil)
    expect(shown(page, evil)).to_be_visible()
    assert page.locator("#log img, #log b").count() == 0
    assert page.title() == "hearken"
    csp = page.request.get(page.url).headers["content-security-policy"]
    assert "default-src 'none'" in csp
    assert "unsafe" not in csp


def test_each_browser_has_its_own_name_and_keeps_it(page: Page, browser: Browser, gateway: Gateway) -> None:
    for opened in (page, browser.new_page()):
        opened.goto(gateway.url)
        for before in range(2):
            ask(opened, "hi")
            expect(opened.get_by_label("Good answer").nth(before)).to_be_visible()
            opened.reload()
        if opened is not page:
            opened.close()
    users = [completion.user for completion in gateway.completions()]
    assert users[0] == users[1] != users[2] == users[3]


def test_nothing_sticks_out_at_any_width(page: Page) -> None:
    page.get_by_role("button", name="Compare").click()
    ask(page, "x" * 300)
    expect(page.locator(".ballot")).to_be_visible()
    for width in (320, 390, 768, 1400):
        page.set_viewport_size({"width": width, "height": 700})
        if folder := os.environ.get("HEARKEN_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/compare-{width}.png")
        for wide in ("document.documentElement", "document.querySelector('#scroller')"):
            assert page.evaluate(f"{wide}.scrollWidth <= {wide}.clientWidth"), (width, wide)


def test_dark_follows_the_system_and_can_be_switched(browser: Browser, gateway: Gateway) -> None:
    context = browser.new_context(color_scheme="dark")
    opened = context.new_page()
    opened.goto(gateway.url)
    background = "getComputedStyle(document.body).backgroundColor"
    dark = opened.evaluate(background)
    opened.get_by_label("Switch between light and dark").click()
    light = opened.evaluate(background)
    assert dark != light
    opened.reload()
    assert opened.evaluate(background) == light
    context.close()


@pytest.mark.parametrize("width", axe.WIDTHS)
@pytest.mark.parametrize("scheme", axe.SCHEMES)
def test_axe_finds_no_fault(browser: Browser, start: Start, scheme: Any, width: int) -> None:
    gateway = start(suggestions=("Where is my parcel?",), consent="asked")
    seen: dict[str, list[str]] = {}
    with visiting(
        browser, gateway, "/", color_scheme=scheme, viewport={"width": width, "height": 800}
    ) as page:

        def look(name: str) -> None:
            photograph(page, f"chat-{scheme}-{width}-{name}")
            seen[name] = axe.faults(page)

        expect(page.get_by_role("button", name="Where is my parcel?")).to_be_visible()
        look("welcome")
        page.get_by_role("button", name="Yes, keep them").click()
        ask(page, f"{Trouble.SAY}{MARKDOWN}")
        page.get_by_label("Bad answer").click()
        expect(page.get_by_role("group", name="What was wrong?")).to_be_visible()
        page.get_by_role("button", name="Suggest a better answer").click()
        page.get_by_label("What it should have said").fill("## Better\n\nThis is better.")
        expect(page.locator(".diff ins").first).to_be_visible()
        look("corrected")
        page.get_by_role("button", name="Compare").click()
        ask(page, "hi")
        page.get_by_text("B is better").click()
        expect(page.locator(".badge")).to_have_count(1)
        look("compared")
        ask(page, Trouble.CRASH)
        expect(page.locator(".trouble")).to_be_visible()
        look("trouble")
        for name, title in (
            ("wishes", "What every answer should be like"),
            ("mine", "What is kept of you"),
        ):
            page.get_by_role("button", name=title).click()
            expect(page.get_by_role("dialog")).to_be_visible()
            look(name)
            page.get_by_role("dialog").get_by_role("button", name="Close").click()
    assert {name: found for name, found in seen.items() if found} == {}

"""The chat page of a service that has API keys."""

import os

import pytest
from playwright.sync_api import Browser, Page, expect

from serve.auth.limits import Limits
from tests.serve.conftest import Start, eventually
from tests.serve.test_access import add_key, bearer, revoke_all
from tests.serve.test_page import TEXT, ask, only_vote, shown

pytestmark = pytest.mark.browser


def enter(page: Page, key: str) -> None:
    page.get_by_label("API key", exact=True).fill(key)
    page.get_by_role("button", name="Continue").click()


def photograph(page: Page, name: str) -> None:
    if folder := os.environ.get("HEARKEN_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")


def test_the_page_asks_for_a_key_and_keeps_it_in_its_tab(browser: Browser, start: Start) -> None:
    gateway = start(wait=False)
    file = gateway.data / "keys.json"
    secret, votes_only = add_key(file, ["chat", "feedback"]), add_key(file, ["feedback"])
    eventually(lambda: gateway.http.get("/v1/models").status_code == 401, "the service has keys")
    context = browser.new_context()
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(gateway.url)
    expect(page.get_by_role("heading", name="Enter your key")).to_be_visible()
    expect(page.get_by_label("API key", exact=True)).to_be_focused()
    expect(page.get_by_label("Your message")).to_be_hidden()
    photograph(page, "key")
    for wrong, words in (
        ("", "Enter a key first."),
        ("a b", "no spaces"),
        ("hk-nonsense", "not accepted"),
        (votes_only, "may not chat"),
    ):
        enter(page, wrong)
        expect(page.get_by_role("alert")).to_contain_text(words)
    photograph(page, "key-wrong")
    for width in (320, 768):
        page.set_viewport_size({"width": width, "height": 640})
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        photograph(page, f"key-{width}")

    enter(page, secret)
    expect(page.get_by_label("Your message")).to_be_focused()
    expect(page.get_by_role("heading", name="Enter your key")).to_be_hidden()
    ask(page, "hi")
    expect(shown(page, TEXT)).to_be_visible()
    page.get_by_label("Good answer").click()
    expect(shown(page, "Thanks, noted.")).to_be_visible()
    assert only_vote(gateway).label == "up"
    photograph(page, "key-used")

    page.reload()  # the tab still has it
    expect(page.get_by_label("Your message")).to_be_focused()
    assert secret not in str(context.storage_state())
    other = context.new_page()  # another tab has not
    other.goto(gateway.url)
    expect(other.get_by_label("API key", exact=True)).to_be_focused()

    page.get_by_label("Forget the API key").click()
    expect(page.get_by_label("API key", exact=True)).to_be_focused()
    page.reload()
    expect(page.get_by_label("API key", exact=True)).to_be_focused()
    context.close()
    assert complaints == []


def test_a_key_that_ends_is_asked_for_again_and_the_question_is_kept(browser: Browser, start: Start) -> None:
    gateway = start(wait=False)
    file = gateway.data / "keys.json"
    first = add_key(file, ["chat"], limits=Limits(requests_per_minute=1))
    eventually(lambda: gateway.http.get("/v1/models").status_code == 401, "the service has keys")
    page = browser.new_page()
    page.goto(gateway.url)
    enter(page, first)
    ask(page, "hi")
    expect(page.get_by_label("Good answer")).to_be_visible()
    expect(page.get_by_label("Send")).to_be_visible()
    ask(page, "hi again")
    expect(page.locator(".trouble", has_text="a little fast")).to_be_visible()
    expect(page.get_by_label("Send")).to_be_visible()
    revoke_all(file)
    second = add_key(file, ["chat"])
    eventually(  # the first one is revoked by then: its file was written before
        lambda: gateway.http.get("/v1/models", headers=bearer(second)).status_code == 200, "the next key"
    )
    ask(page, "hi once more")
    expect(page.get_by_role("alert")).to_contain_text("no longer accepted")
    enter(page, second)
    page.get_by_role("button", name="Try again").click()
    expect(shown(page, TEXT)).to_have_count(2)
    page.close()


def test_an_open_service_asks_for_nothing(browser: Browser, start: Start) -> None:
    page = browser.new_page()
    page.goto(start().url)
    expect(page.get_by_label("Your message")).to_be_focused()
    expect(page.get_by_label("Forget the API key")).to_be_hidden()
    page.close()

"""What the chat page keeps over a reload, what it copies, and what it suggests."""

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.serve.conftest import Gateway, Start
from tests.serve.fake_vllm import EMOJI_TEXT, FakeVllm, Trouble
from tests.serve.test_page import TEXT, ask, goes_on, shown

pytestmark = pytest.mark.browser


def test_a_reload_keeps_the_conversation_and_its_votes(page: Page, fake: FakeVllm, gateway: Gateway) -> None:
    ask(page, Trouble.EMOJI)
    page.get_by_label("Good answer").click()
    expect(shown(page, "Thanks, noted.")).to_be_visible()
    page.reload()
    expect(shown(page, Trouble.EMOJI)).to_be_visible()
    expect(shown(page, EMOJI_TEXT)).to_be_visible()
    expect(page.get_by_label("Good answer")).to_have_attribute("aria-pressed", "true")
    goes_on(page, fake)
    page.get_by_label("Good answer").first.click()  # the vote of before the reload
    expect(shown(page, "Your vote was taken back.")).to_be_visible()
    said = [vote.kind for vote in gateway.votes() if vote.kind != "signal"]
    assert said == ["thumbs", "retraction"]


def test_a_reload_keeps_two_answers_and_the_choice(page: Page, fake: FakeVllm) -> None:
    page.get_by_role("button", name="Compare").click()
    ask(page, "hi")
    page.get_by_text("B is better").click()
    expect(page.locator(".badge")).to_have_count(1)
    page.reload()
    expect(page.locator(".side.chosen h3", has_text="Answer B")).to_be_visible()
    chosen = page.locator(".side.chosen .text").inner_text()
    ask(page, "and then?")
    expect(page.get_by_label("Good answer")).to_be_visible()
    assert fake.requests[-1]["messages"][1] == {"role": "assistant", "content": chosen}


def test_a_reload_keeps_an_answer_as_far_as_it_was_written(page: Page) -> None:
    ask(page, Trouble.HOLD)
    expect(shown(page, "I am")).to_be_visible()
    page.reload()
    expect(shown(page, "I am")).to_be_visible()
    expect(page.locator(".note", has_text="Stopped.")).to_be_visible()


def test_a_new_conversation_forgets_the_one_before(page: Page) -> None:
    ask(page, "hi")
    expect(page.get_by_label("Good answer")).to_be_visible()
    page.get_by_label("New conversation").click()
    page.reload()
    expect(page.get_by_role("heading", name="What can I help you with?")).to_be_visible()
    expect(shown(page, TEXT)).to_have_count(0)
    assert page.evaluate("sessionStorage.length") == 0


def test_an_answer_is_copied_with_tls_and_without(browser: Browser, gateway: Gateway) -> None:
    """Localhost counts as a secure place for browsers. Another name without TLS does not."""
    for url in (gateway.url, "http://chat.test"):
        context = browser.new_context()
        page = context.new_page()
        page.route("http://chat.test/**", lambda route: carry(route, gateway))
        page.goto(url)
        assert page.evaluate("window.isSecureContext") is (url == gateway.url)
        ask(page, f"{Trouble.SAY}some **bold** words")
        page.get_by_label("Copy").click()
        expect(page.get_by_title("Copied")).to_be_visible()
        page.get_by_label("Your message").press("Control+V")
        expect(page.get_by_label("Your message")).to_have_value("some **bold** words")
        context.close()


def carry(route: Route, gateway: Gateway) -> None:
    """Answer a request to another name as the gateway answers it."""
    wanted = route.request.url.replace("http://chat.test", gateway.url)
    route.fulfill(response=route.fetch(url=wanted, headers={"content-type": "application/json"}))


def test_questions_are_suggested_as_they_were_set(browser: Browser, start: Start) -> None:
    gateway = start(suggestions=("Where is my parcel?", "<b>What?</b>"))
    page = browser.new_page()
    page.goto(gateway.url)
    expect(page.locator("#suggestions button")).to_have_text(["Where is my parcel?", "<b>What?</b>"])
    page.get_by_role("button", name="Where is my parcel?").click()
    expect(shown(page, "Where is my parcel?")).to_be_visible()
    page.close()


def test_nothing_is_suggested_that_nobody_set(page: Page) -> None:
    expect(page.get_by_label("Your message")).to_be_focused()
    expect(page.locator("#suggestions button")).to_have_count(0)

"""What people say on the chat page beside a thumb, and what they can ask of the service about themselves."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.serve.conftest import Gateway, Start, eventually
from tests.serve.fake_vllm import FakeVllm
from tests.serve.operating import photograph, unnamed, visiting
from tests.serve.test_access import add_key
from tests.serve.test_page import TEXT, ask, shown
from tests.serve.test_page_key import enter

pytestmark = pytest.mark.browser


def test_a_thumb_down_has_reasons(page: Page, gateway: Gateway) -> None:
    ask(page, "hi")
    why = page.get_by_role("group", name="What was wrong?")
    page.get_by_label("Good answer").click()
    expect(shown(page, "Thanks, noted.")).to_be_visible()
    expect(why).to_be_hidden()
    page.get_by_label("Bad answer").click()
    why.get_by_text("too long").click()
    why.get_by_text("style").click()
    page.locator(".details").get_by_role("button", name="Send").click()
    expect(shown(page, "Thanks, that helps.")).to_be_visible()
    expect(why).to_be_hidden()
    newest = gateway.votes()[-1]
    assert (newest.label, newest.reasons) == ("down", ["too_long", "style"])
    assert len({vote.event_id for vote in gateway.votes()}) == 1
    expect(page.get_by_label("Bad answer")).to_have_attribute("aria-pressed", "true")


def test_a_better_answer_is_suggested_by_keyboard(page: Page, gateway: Gateway) -> None:
    ask(page, "hi")
    button = page.get_by_role("button", name="Suggest a better answer")
    button.focus()
    page.keyboard.press("Enter")
    field = page.get_by_label("What it should have said")
    expect(field).to_be_focused()
    expect(field).to_have_value(TEXT)
    page.keyboard.press("Escape")
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Control+End")
    page.keyboard.type(" Be kind.")
    expect(page.locator(".diff ins")).to_have_text(" Be kind.")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(shown(page, "Thank you for the better answer.")).to_be_visible()
    expect(button).to_be_focused()
    (vote,) = gateway.votes()
    assert (vote.kind, vote.text) == ("correction", f"{TEXT} Be kind.")


def test_what_became_of_a_vote_is_told_after_a_reload_too(page: Page, gateway: Gateway) -> None:
    ask(page, "hi")
    receipt = page.get_by_role("button", name="What became of it?")
    expect(receipt).to_be_hidden()
    page.get_by_label("Good answer").click()
    expect(receipt).to_be_visible()
    page.reload()
    (vote,) = (vote for vote in gateway.votes() if vote.kind == "thumbs")
    path = f"/v1/feedback/{vote.event_id}"
    eventually(lambda: gateway.http.get(path).json()["status"] == "joined", "it is read")
    told = gateway.http.get(path).json()["sentence"]
    receipt.click()
    expect(shown(page, told)).to_be_visible()
    page.get_by_label("Good answer").click()
    expect(shown(page, "Your vote was taken back.")).to_be_visible()
    expect(receipt).to_be_hidden()


def test_both_answers_can_be_bad(page: Page, gateway: Gateway) -> None:
    page.get_by_role("button", name="Compare").click()
    ask(page, "hi")
    ballot = page.get_by_role("group", name="Which answer is better?")
    expect(ballot).to_be_focused()
    page.keyboard.press("n")
    expect(ballot.get_by_role("button", name="Both are bad")).to_have_attribute("aria-pressed", "true")
    eventually(lambda: [vote.label for vote in gateway.votes()] == ["both_bad"], "the vote")
    expect(page.locator(".side.passed, .side.chosen")).to_have_count(0)


def test_a_new_answer_is_compared_with_the_one_before(page: Page, gateway: Gateway) -> None:
    ask(page, "hi")
    page.get_by_role("button", name="Answer again").click()
    asked = page.get_by_role("group", name="Was this better than the answer before?")
    asked.get_by_role("button", name="Better").click()
    expect(asked.get_by_text("Thanks, your choice counts.")).to_be_visible()
    (vote,) = (vote for vote in gateway.votes() if vote.kind == "comparison")
    old, new = gateway.completions()
    assert [target.completion_id for target in vote.targets] == [new.completion_id, old.completion_id]
    assert vote.label == "a"
    page.reload()
    expect(asked.get_by_role("button", name="Better")).to_have_attribute("aria-pressed", "true")


def test_a_changed_question_takes_the_place_of_what_followed(page: Page, fake: FakeVllm) -> None:
    for before, text in enumerate(("hi", "and you?")):
        ask(page, text)
        expect(page.get_by_label("Good answer")).to_have_count(before + 1)
    first = page.get_by_role("button", name="Change this message").first
    first.click()
    field = page.get_by_label("Your message")
    expect(field).to_have_value("hi")
    page.get_by_role("button", name="Cancel").click()
    expect(field).to_have_value("")
    expect(shown(page, "and you?")).to_be_visible()
    first.click()
    field.fill("good morning")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Good answer")).to_have_count(1)
    expect(shown(page, "good morning")).to_be_visible()
    assert fake.requests[-1]["messages"] == [{"role": "user", "content": "good morning"}]
    page.reload()
    expect(page.locator(".mine")).to_have_text(["good morning"])


def test_where_the_service_asks_nothing_is_kept_without_a_yes(browser: Browser, start: Start) -> None:
    gateway = start(consent="asked")
    with visiting(browser, gateway, path="/") as page:
        _consents(page, gateway)


def _consents(page: Page, gateway: Gateway) -> None:
    question = page.get_by_role("region", name="May your chats be kept?")
    expect(question).to_be_visible()
    ask(page, "a secret")
    expect(page.get_by_label("Good answer")).to_have_count(1)
    page.get_by_role("button", name="Yes, keep them").click()
    expect(question).to_be_hidden()
    ask(page, "no secret")
    expect(page.get_by_label("Good answer")).to_have_count(2)
    assert [completion.consent for completion in gateway.completions()] == [False, True]
    page.reload()
    expect(question).to_be_hidden()
    page.get_by_role("button", name="What is kept of you").click()
    page.get_by_label("Keep my chats from now on").uncheck()
    page.get_by_role("button", name="Close").click()
    ask(page, "a secret again")
    expect(page.get_by_label("Good answer")).to_have_count(3)
    assert gateway.completions()[-1].consent is False


def test_a_service_that_does_not_ask_shows_no_question(page: Page) -> None:
    expect(page.get_by_label("Your message")).to_be_focused()
    expect(page.get_by_role("region", name="May your chats be kept?")).to_be_hidden()


def test_people_see_what_is_kept_and_are_forgotten(page: Page, gateway: Gateway) -> None:
    panel = page.get_by_role("dialog", name="What is kept of you")
    opener = page.get_by_role("button", name="What is kept of you")
    opener.click()
    expect(panel).to_contain_text("Nothing is kept of you.")
    expect(panel.get_by_role("button", name="Forget me")).to_be_hidden()
    panel.get_by_role("button", name="Close").click()
    ask(page, "hi")
    page.get_by_label("Good answer").click()
    expect(shown(page, "Thanks, noted.")).to_be_visible()
    opener.click()
    expect(panel).to_contain_text("Kept of you: 1 answer, 1 vote, since ")
    assert unnamed(page) == []
    panel.get_by_role("button", name="Forget me").click()
    expect(panel.get_by_role("button", name="No, keep it")).to_be_focused()
    with page.expect_navigation():  # until its scripts are there again, and not only its headings
        panel.get_by_role("button", name="Yes, forget me").click()
    expect(page.get_by_role("heading", name="What can I help you with?")).to_be_visible()
    (forgotten,) = {completion.user for completion in gateway.completions()}
    told = gateway.http.get(f"/v1/users/{forgotten}").json()
    assert (told["key"], told["erased_at"] is not None) == ("erased", True)
    ask(page, "hi")
    expect(page.get_by_label("Good answer")).to_be_visible()
    assert gateway.completions()[-1].user != forgotten


def test_with_a_key_that_may_only_chat_people_are_told_whom_to_ask(
    browser: Browser, start: Start, tmp_path: Path
) -> None:
    key = add_key(tmp_path / "keys.json", ["chat", "feedback"])
    with visiting(browser, start(), path="/") as page:
        enter(page, key)
        page.get_by_role("button", name="What is kept of you").click()
        panel = page.get_by_role("dialog", name="What is kept of you")
        user = page.evaluate("localStorage.getItem('hearken.user')")
        expect(panel).to_contain_text(f"can forget you. Give them this name: {user}")
        expect(panel.get_by_role("button", name="Forget me")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_at_all_widths_nothing_sticks_out_and_all_is_named(
    browser: Browser, start: Start, scheme: Any
) -> None:
    gateway = start(consent="asked", suggestions=("Where is my parcel?", "What can I cook tonight?"))
    with visiting(browser, gateway, path="/", color_scheme=scheme) as page:
        expect(page.get_by_role("region", name="May your chats be kept?")).to_be_visible()
        _fits(page, f"chat-{scheme}-start")
        ask(page, f"# Title\n\n- one\n- two\n\n`{'x' * 300}`")
        page.get_by_label("Bad answer").click()
        expect(page.get_by_role("group", name="What was wrong?")).to_be_visible()
        page.get_by_role("button", name="Suggest a better answer").click()
        page.get_by_label("What it should have said").fill("I am not base, seed " + "y" * 200)
        page.get_by_role("button", name="Change this message").click()
        _fits(page, f"chat-{scheme}-said")
        page.get_by_role("button", name="Cancel").last.click()
        page.get_by_role("button", name="Answer again").click()
        expect(page.get_by_role("group", name="Was this better than the answer before?")).to_be_visible()
        page.get_by_role("button", name="Compare").click()
        ask(page, "hi")
        expect(page.get_by_role("group", name="Which answer is better?")).to_be_focused()
        page.keyboard.press("b")
        expect(page.locator(".badge")).to_be_visible()
        _fits(page, f"chat-{scheme}-compared")
        page.get_by_role("button", name="What is kept of you").click()
        page.get_by_role("button", name="Forget me").click()
        _fits(page, f"chat-{scheme}-mine")


def _fits(page: Page, name: str) -> None:
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        photograph(page, f"{name}-{width}")
        for wide in ("document.documentElement", "document.querySelector('#scroller')"):
            assert page.evaluate(f"{wide}.scrollWidth <= {wide}.clientWidth"), (width, wide, name)
        assert unnamed(page) == []

"""The panel of the chat page in which people say what every answer should be like."""

import pytest
from playwright.sync_api import Page, expect

from tests.serve.conftest import Gateway
from tests.serve.fake_vllm import FakeVllm
from tests.serve.test_page import ask

pytestmark = pytest.mark.browser
WISH = "Answer in one sentence, table & <b>bold</b>."


def opened(page: Page) -> None:
    page.get_by_role("button", name="What every answer should be like").click()
    expect(page.get_by_role("dialog")).to_be_visible()


def remember(page: Page, wish: str) -> None:
    page.get_by_role("textbox", name="What every answer should be like").fill(wish)
    page.get_by_role("button", name="Remember").click()


def asked(fake: FakeVllm) -> str:
    return str(fake.requests[-1]["messages"][-1]["content"])


def test_a_sentence_holds_from_the_next_answer_on_until_it_is_forgotten(
    page: Page, gateway: Gateway, fake: FakeVllm
) -> None:
    ask(page, "hi")
    expect(page.get_by_label("Good answer")).to_have_count(1)
    assert asked(fake) == "hi"
    opened(page)
    expect(page.get_by_text("You have not asked for anything yet.")).to_be_visible()
    remember(page, WISH)
    entry = page.get_by_role("listitem").filter(has_text=WISH)
    expect(entry).to_be_visible()
    remember(page, "Be kind.")
    expect(page.get_by_role("listitem").filter(has_text="Be kind.")).to_be_visible()
    page.get_by_role("button", name="Close").click()
    ask(page, "and?")
    expect(page.get_by_label("Good answer")).to_have_count(2)
    assert asked(fake) == f"and?\n\n(In every answer: {WISH} Be kind.)"
    page.reload()
    opened(page)
    page.get_by_role("button", name=f"Forget: {WISH}").click()
    expect(entry).to_have_count(0)
    page.get_by_role("button", name="Forget all").click()
    expect(page.get_by_text("You have not asked for anything yet.")).to_be_visible()
    page.keyboard.press("Escape")
    ask(page, "and now?")
    expect(page.get_by_label("Good answer")).to_have_count(3)
    assert asked(fake) == "and now?"


def test_keys_that_vote_are_letters_in_the_panel(page: Page, gateway: Gateway) -> None:
    page.get_by_role("button", name="Compare").click()
    ask(page, "hi")
    expect(page.get_by_role("group", name="Which answer is better?")).to_be_visible()
    opened(page)
    page.keyboard.type("A table")
    expect(page.get_by_role("textbox", name="What every answer should be like")).to_have_value("A table")
    page.get_by_role("button", name="Remember").click()
    expect(page.get_by_role("listitem").filter(has_text="A table")).to_be_visible()
    assert gateway.votes() == []


def test_what_cannot_be_kept_is_told(page: Page, gateway: Gateway) -> None:
    opened(page)
    body = '{"error": {"message": "entries[0] is empty.", "code": "invalid_value"}}'
    answer = {"status": 400, "content_type": "application/json", "body": body}
    page.route(
        "**/preferences",
        lambda route: route.fulfill(**answer) if route.request.method == "PUT" else route.continue_(),  # type: ignore[arg-type]
    )
    remember(page, WISH)
    expect(page.get_by_role("alert").get_by_text("entries[0] is empty.")).to_be_visible()
    expect(page.get_by_role("listitem").filter(has_text=WISH)).to_have_count(0)

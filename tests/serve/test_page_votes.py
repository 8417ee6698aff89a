"""Votes on the chat page: what is lit is what the service has, and a second press takes it back."""

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.serve.conftest import Gateway, eventually
from tests.serve.test_page import ask, shown

pytestmark = pytest.mark.browser


def is_lit(button: Locator, lit: bool) -> None:
    expect(button).to_have_attribute("aria-pressed", "true" if lit else "false")


def refuse_votes(page: Page) -> None:
    body = '{"error": {"message": "no", "code": "no"}}'
    answer = {"status": 403, "content_type": "application/json", "body": body}
    page.route("**/v1/feedback*", lambda route: route.fulfill(**answer))  # type: ignore[arg-type]


def test_a_second_press_takes_the_vote_back(page: Page, gateway: Gateway) -> None:
    ask(page, "hi")
    up = page.get_by_label("Good answer")
    up.click()
    is_lit(up, True)
    up.click()
    expect(shown(page, "Your vote was taken back.")).to_be_visible()
    is_lit(up, False)
    eventually(lambda: [vote.kind for vote in gateway.votes()] == ["thumbs", "retraction"], "taken back")
    up.click()
    is_lit(up, True)
    eventually(lambda: len({vote.event_id for vote in gateway.votes()}) == 1, "one vote all the time")


def test_a_refused_vote_is_not_lit(page: Page, gateway: Gateway) -> None:
    ask(page, "hi")
    refuse_votes(page)
    up, down = page.get_by_label("Good answer"), page.get_by_label("Bad answer")
    up.click()
    expect(page.locator(".said.failed")).to_be_visible()
    is_lit(up, False)
    page.unroute("**/v1/feedback*")
    page.get_by_role("button", name="Try again").click()
    is_lit(up, True)
    refuse_votes(page)
    down.click()
    expect(page.locator(".said.failed")).to_be_visible()
    is_lit(down, False)
    is_lit(up, True)  # it is still in force
    assert [vote.label for vote in gateway.votes()] == ["up"]


def test_a_choice_that_is_refused_is_not_marked_and_one_can_be_taken_back(
    page: Page, gateway: Gateway
) -> None:
    page.get_by_role("button", name="Compare").click()
    ask(page, "hi")
    ballot = page.get_by_role("group", name="Which answer is better?")
    choice = ballot.get_by_role("button", name="B is better")
    expect(ballot).to_be_visible()
    refuse_votes(page)
    choice.click()
    expect(page.locator(".said.failed")).to_be_visible()
    is_lit(choice, False)
    expect(page.locator(".badge")).to_have_count(0)
    page.unroute("**/v1/feedback*")
    choice.click()
    is_lit(choice, True)
    expect(page.locator(".badge")).to_have_count(1)
    choice.click()
    expect(ballot.get_by_text("Your vote was taken back.")).to_be_visible()
    is_lit(choice, False)
    expect(page.locator(".badge")).to_have_count(0)
    assert [vote.kind for vote in gateway.votes()] == ["comparison", "retraction"]

"""What people do with answers on the chat page, and on one with the widget: told when the page is left."""

import pytest
from playwright.sync_api import Page, expect

from feedback.core.events import Feedback
from tests.serve.conftest import Gateway, eventually
from tests.serve.fake_vllm import FakeVllm
from tests.serve.test_page import ask
from tests.serve.test_widget import Shop, shop, site

__all__ = ["shop", "site"]
pytestmark = pytest.mark.browser


def told(gateway: Gateway) -> dict[tuple[str, str], str]:
    """The newest word of each signal, by answer and name."""
    signals = [vote for vote in gateway.votes() if vote.kind == "signal"]
    return {(vote.targets[0].completion_id, vote.name or ""): vote.label for vote in signals}


def names(gateway: Gateway) -> list[dict[str, str]]:
    """The same as name -> word, answer by answer."""
    found: dict[str, dict[str, str]] = {}
    for (answer, name), label in told(gateway).items():
        found.setdefault(answer, {})[name] = label
    return list(found.values())


def test_the_page_tells_what_was_copied_and_what_was_not(page: Page, gateway: Gateway) -> None:
    for number in (1, 2):
        ask(page, "hi")
        expect(page.get_by_label("Copy")).to_have_count(number)
    page.get_by_label("Copy").first.click()
    expect(page.get_by_title("Copied")).to_be_visible()
    assert gateway.votes() == []
    page.reload()
    eventually(lambda: len(told(gateway)) == 4, "two names of two answers")
    assert names(gateway) == [
        {"copied": "yes", "regenerated": "no"},
        {"copied": "no", "regenerated": "no"},
    ]
    page.reload()  # silence is no news of answers that were there before
    page.get_by_label("Copy").last.click()
    expect(page.get_by_title("Copied")).to_be_visible()
    page.reload()
    eventually(lambda: [each["copied"] for each in names(gateway)] == ["yes", "yes"], "the second one")


def test_an_answer_can_be_had_again(page: Page, fake: FakeVllm, gateway: Gateway) -> None:
    ask(page, "hi")
    again = page.get_by_label("Answer again")
    again.click()
    expect(page.get_by_label("Good answer")).to_have_count(1)
    eventually(lambda: len(fake.requests) == 2, "a second answer")
    assert fake.requests[0]["messages"] == fake.requests[1]["messages"]
    expect(again).to_have_count(1)
    ask(page, "and then?")
    expect(page.get_by_label("Good answer")).to_have_count(2)
    expect(again).to_have_count(1)  # of the newest answer alone
    page.reload()
    expect(again).to_have_count(1)
    eventually(lambda: len(names(gateway)) == 3, "three answers")
    assert [each["regenerated"] for each in names(gateway)] == ["yes", "no", "no"]


def test_the_widget_tells_what_the_page_says(shop: Shop) -> None:
    page, gateway = shop()
    page.get_by_role("button", name="Good answer").wait_for()
    page.evaluate(
        """() => {
          const widget = document.querySelector("hearken-feedback");
          widget.setAttribute("signals", "accepted, rejected");
          widget.did("accepted");
        }"""
    )
    page.goto("about:blank")
    eventually(lambda: len(told(gateway)) == 2, "both names")
    assert names(gateway) == [{"accepted": "yes", "rejected": "no"}]
    event: Feedback = gateway.votes()[0]
    assert event.rater == gateway.signer.pseudonym("default", "ada")


def test_the_widget_sees_what_is_copied_from_the_answer(shop: Shop) -> None:
    page, gateway = shop()
    page.get_by_role("button", name="Good answer").wait_for()
    page.evaluate("document.querySelector('hearken-feedback').setAttribute('watch', 'p')")
    page.evaluate("getSelection().selectAllChildren(document.querySelector('p'))")
    page.keyboard.press("Control+C")
    page.goto("about:blank")
    eventually(lambda: names(gateway) == [{"copied": "yes"}], "it was copied")

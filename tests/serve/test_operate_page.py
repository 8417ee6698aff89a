"""The operator's page in a real browser, over a real gateway and a real controller."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from deploy.history import notice
from tests.deploy.world import World, controlled
from tests.serve import axe
from tests.serve.conftest import Gateway, Start, eventually
from tests.serve.fake_vllm import FakeVllm
from tests.serve.operating import (
    ask,
    audit,
    button,
    close,
    commands,
    inside,
    photograph,
    send,
    unnamed,
    visiting,
    voted,
)
from tests.serve.test_access import add_key, bearer, revoke_all
from tests.serve.test_learning import learned
from tests.serve.test_page_key import enter
from tests.serve.test_releases import act, started

pytestmark = pytest.mark.browser
EVIL = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture
def page(browser: Browser, gateway: Gateway) -> Iterator[Page]:
    with visiting(browser, gateway) as opened:
        yield opened


def test_an_operator_sees_why_a_canary_waits_pauses_it_and_takes_it_back(
    browser: Browser, start: Start, world: World, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    operator, chatter = add_key(file, ["operate"]), add_key(file, ["chat"])
    with visiting(browser, start()) as page, controlled(world):
        expect(page.get_by_role("heading", name="Enter an operator's key")).to_be_visible()
        expect(page.get_by_role("group", name="Actions")).to_be_hidden()
        for wrong, words in (
            ("hk-nonsense", "not accepted"),
            (chatter, "has no scope 'operate'; it has: chat"),
        ):
            enter(page, wrong)
            expect(page.locator("#key-wrong")).to_contain_text(words)
        enter(page, operator)
        expect(
            page.get_by_role("heading", name="base serves everybody; nothing is on trial.")
        ).to_be_visible()

        version = started(world)
        expect(
            page.get_by_role("heading", name=f"base serves, and {version} is on trial with 5% of users.")
        ).to_be_visible()
        why = page.get_by_role("list", name="Why", exact=True)
        expect(why).to_contain_text("For the next step, 25% of users, it needs")
        expect(why).to_contain_text("50 more canary users (0 of 50 were served on this step)")
        arms = page.locator("#arms li")
        expect(arms).to_have_text(
            [r"Livebase90% of users", f"Canary{version}5% of users", "Controlbase5% of users"]
        )
        _watch_evidence(page, world, version)

        ask(page, "Pause", "the fair")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("Paused for a test (key ")
        expect(dialog).to_contain_text("): the fair. No canary starts")
        close(page)
        expect(page.get_by_role("list", name="Holds")).to_have_text("Paused")
        expect(button(page, "Pause")).to_be_hidden()
        expect(button(page, "Resume")).to_be_focused()

        button(page, "Roll back…").click()
        expect(dialog).to_contain_text(f"The trial of {version} ends, and base serves everybody.")
        expect(send(page)).to_have_text(f"Roll back {version}")
        send(page).click()
        expect(dialog.get_by_role("alert")).to_contain_text("Say why")
        dialog.get_by_label("Reason").fill("rude answers")
        send(page).click()
        expect(dialog).to_contain_text(f"Rolled back {version} to base for a test (key ")
        close(page)
        expect(audit(page).nth(0)).to_contain_text("Rolled back" + version)
        expect(audit(page).nth(0)).to_contain_text("Asked for by a test (key ")
        expect(audit(page).nth(0)).to_contain_text("): rude answers")
        expect(audit(page).nth(1)).to_contain_text("): the fair")
        expect(
            page.get_by_role("heading", name="base serves everybody; nothing is on trial.")
        ).to_be_visible()
    assert [(each.action, each.reason) for each in commands(world)] == [
        ("pause", "the fair"),
        ("rollback", "rude answers"),
    ]


def _watch_evidence(page: Page, world: World, version: str) -> None:
    """Bars, votes and guardrails follow what users do."""
    bar = page.get_by_role("progressbar", name="Evidence: Users like it better")
    guardrail = page.locator("#guardrails li", has_text="Empty answers")
    expect(guardrail).to_contain_text("not judged yet")
    expect(bar).to_have_js_property("value", 0)
    world.taste = lambda served: 0.9 if served == version else 0.2
    voted(world, 16)
    expect(guardrail).to_contain_text("held")
    expect(page.locator("#bars li", has=bar)).to_contain_text(" of 20")
    expect(bar).not_to_have_js_property("value", 0)
    expect(page.locator("#pairs")).to_contain_text("paired users, +")
    voters = page.get_by_role("row", name="Canary")
    expect(voters).to_contain_text("%")
    expect(voters).not_to_contain_text("none yet")


def test_a_key_that_ends_is_asked_for_again(
    browser: Browser, start: Start, world: World, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    first = add_key(file, ["operate"])
    gateway = start()
    with visiting(browser, gateway) as page, controlled(world):
        enter(page, first)
        button(page, "Pause").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        revoke_all(file)
        second = add_key(file, ["operate"])
        eventually(lambda: accepts(gateway, second), "the next key is in force")
        expect(page.locator("#key-wrong")).to_contain_text("no longer accepted")
        expect(page.get_by_role("dialog")).to_be_hidden()
        enter(page, second)
        expect(button(page, "Pause")).to_be_visible()


def accepts(gateway: Gateway, key: str) -> bool:
    return gateway.http.get("/v1/releases", headers=bearer(key)).status_code == 200


def test_what_asks_twice_is_one_command(page: Page, world: World) -> None:
    with controlled(world):
        button(page, "Freeze").click()
        page.get_by_label("Reason").fill("the fair")
        send(page).dblclick()
        expect(page.get_by_role("dialog")).to_contain_text("Frozen for 127.0.0.1, without a key: the fair.")
        close(page)

        def lose_the_answer(route: Route) -> None:
            route.fetch()
            route.abort()

        page.route("**/v1/releases/actions?**", lose_the_answer, times=1)
        ask(page, "Unfreeze", "it is over")
        expect(page.get_by_role("dialog")).to_contain_text("Send it again: it is the same command")
        send(page).click()
        expect(page.get_by_role("dialog")).to_contain_text("Unfrozen for 127.0.0.1")
    assert len({each.event_id for each in commands(world)}) == 2
    assert world.outcomes.count("frozen") == world.outcomes.count("unfrozen") == 1


def test_a_danger_is_not_sent_for_another_version_than_it_said(
    page: Page, gateway: Gateway, world: World
) -> None:
    with controlled(world):
        version = started(world)
        expect(page.get_by_role("heading", name=version)).to_be_visible()
        button(page, "Roll back…").click()
        expect(send(page)).to_have_text(f"Roll back {version}")
        page.get_by_label("Reason").fill("odd")
        assert act(gateway, "promote", version=version).status_code == 200
        expect(page.locator("#headline")).to_contain_text("to compare it with")
        send(page).click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("alert")).to_contain_text("Releases changed while this was open")
        expect(dialog).to_contain_text(f"{version} is taken back, and base serves everybody.")
        assert [each.action for each in commands(world)] == ["promote"]
        send(page).click()
        expect(dialog).to_contain_text(f"Rolled back {version} to base")
    assert [each.action for each in commands(world)] == ["promote", "rollback"]


def test_a_pin_says_what_it_pins_and_a_refusal_is_told(page: Page, world: World) -> None:
    with controlled(world):
        button(page, "Pin…").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Version to pin").fill("policy-3-aaaaaaaa")
        expect(dialog).to_contain_text("policy-3-aaaaaaaa serves everybody in place of base")
        expect(send(page)).to_have_text("Pin policy-3-aaaaaaaa")
        dialog.get_by_label("Reason").fill("audit")
        send(page).click()
        expect(dialog.get_by_role("alert")).to_contain_text("policy-3-aaaaaaaa cannot serve")
        dialog.get_by_label("Version to pin").fill("base")
        send(page).click()
        expect(dialog).to_contain_text("Pinned base for 127.0.0.1")
        close(page)
        expect(page.get_by_role("list", name="Holds")).to_have_text("Pinned: base")
        ask(page, "Unpin", "audited")
        expect(dialog).to_contain_text("Unpinned base")


def test_who_is_away_is_told_and_found_again(page: Page, gateway: Gateway, world: World) -> None:
    away = page.locator("#away")
    with controlled(world):
        expect(page.get_by_role("heading", name="base serves everybody")).to_be_visible()
        expect(away).to_be_hidden()
        page.context.set_offline(True)
        expect(away).to_contain_text("The gateway does not answer. What is shown is of ")
        page.context.set_offline(False)
        expect(away).to_be_hidden()
    world.shared.delete(notice.KEY)  # as it is 15 seconds after the controller ended
    expect(away).to_contain_text("No controller has told how the release stands")
    ask(page, "Pause", "nobody is there")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    eventually(lambda: len(commands(world)) == 1, "it is in the log")
    expect(page.locator("#others")).to_contain_text("Asked for and not answered yet1")
    with controlled(world):
        world.now += 2
        expect(audit(page).nth(0)).to_contain_text("nobody is there")
        expect(away).to_be_hidden()
    assert gateway.http.get("/v1/releases").json()["state"]["paused"]


def test_a_stream_that_falls_silent_is_given_up_for_another(
    browser: Browser, gateway: Gateway, world: World
) -> None:
    asked: list[str] = []
    with controlled(world), visiting(browser, gateway, "/livez") as page:
        page.clock.install()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(gateway.url + "/operate")
        expect(page.get_by_role("heading", name="base serves everybody")).to_be_visible()
        eventually(lambda: asked.count(gateway.url + "/v1/releases/stream") == 1, "it watches")
        page.clock.fast_forward(9000)  # to the page nothing came for so long
        with page.expect_request("**/v1/releases/stream"):
            page.clock.fast_forward(3000)


def test_text_is_never_html_and_older_decisions_come_when_asked_for(
    page: Page, gateway: Gateway, world: World
) -> None:
    with controlled(world):
        for number in range(25):
            assert act(gateway, "pause", reason=f"{EVIL} {number}").status_code == 200
        expect(audit(page).nth(0)).to_contain_text(f"{EVIL} 24")
        expect(audit(page)).to_have_count(len(world.decisions))
        page.reload()
        expect(audit(page)).to_have_count(20)
        page.get_by_role("button", name="Show older ones").click()
        expect(audit(page)).to_have_count(len(world.decisions))
        expect(page.get_by_role("button", name="Show older ones")).to_be_hidden()
        numbers = page.evaluate("[...document.querySelectorAll('#decisions li')].map((item) => item.value)")
        assert numbers == [each.number for each in reversed(world.decisions)]
    assert page.locator("#board img").count() == 0
    assert page.title() == "Operate"
    csp = page.request.get(page.url).headers["content-security-policy"]
    assert "default-src 'none'" in csp
    assert "unsafe" not in csp


def test_it_works_by_keyboard_alone(page: Page, world: World) -> None:
    with controlled(world):
        expect(page.get_by_role("heading", name="base serves everybody")).to_be_visible()
        button(page, "Pause").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_label("Reason")).to_be_focused()
        assert (
            page.get_by_label("Reason").evaluate("(field) => getComputedStyle(field).outlineStyle") == "solid"
        )
        for _ in range(6):  # round and round: nothing behind the dialog can be reached
            page.keyboard.press("Tab")
            assert page.evaluate("['BODY', 'DIALOG'].includes(document.activeElement.tagName)") or inside(
                page
            )
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        expect(button(page, "Pause")).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.type("the fair")
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog").get_by_role("button", name="Close")).to_be_focused()
        page.keyboard.press("Enter")
        expect(button(page, "Resume")).to_be_focused()
    assert [each.reason for each in commands(world)] == ["the fair"]


def test_how_learning_goes_is_said_first_and_drawn(page: Page, gateway: Gateway, world: World) -> None:
    world.now = time.time()
    learned(world, 3)
    with controlled(world):
        assert act(gateway, "pause").status_code == 200
        page.reload()
        said = page.locator("#learns")
        expect(said).to_have_text(gateway.http.get("/v1/learning").json()["sentence"])
        expect(said).to_contain_text("No votes since ")
        expect(page.locator("#lag")).to_contain_text(
            "The learner has taken in all votes. Its newest update was "
        )
        stages = page.get_by_role("region", name="Who served when")
        expect(stages).to_contain_text("base is live.")
        expect(stages.get_by_role("img", name="Who served when. Since ")).to_be_visible()
        expect(page.locator("#lately")).to_have_text("Within the last day: 0 votes; releases were paused.")
        assert said.bounding_box()["y"] < page.locator("#headline").bounding_box()["y"]  # type: ignore[index]
        expect(page.get_by_role("list", name="To do").get_by_role("listitem")).to_have_text(
            [re.compile("^Resume releases"), re.compile("^Ask people")]
        )
        figures = page.get_by_role("region", name="Learning").locator("figure")
        expect(figures.locator("h3")).to_have_text(
            ["Reward reward model's score", "KL to the base nats per answer",
             "Reward model's accuracy % of votes", "Entropy nats per token",
             "Length of answers tokens", "Answers cut off % of answers"]
        )  # fmt: skip
        expect(figures.nth(1).get_by_role("img", name="KL to the base. ")).to_be_visible()
        expect(figures.nth(1)).to_contain_text("0.50 nats from the base; the budget (dashed) is 6.00.")
        kl, budget = line_heights(figures.nth(1))
        assert kl > budget, "the budget is above"


def test_one_prompt_is_asked_of_all_versions_and_nothing_is_kept(
    page: Page, gateway: Gateway, world: World, fake: FakeVllm
) -> None:
    with controlled(world):
        version = started(world)
        fake.adapters = {version}
        eventually(gateway.is_ready, "the adapter is seen")
        page.get_by_role("textbox", name="Prompt").fill(EVIL)
        page.get_by_role("button", name="Ask").click()
        answers = page.get_by_role("article")
        expect(answers).to_have_count(2)
        expect(answers.nth(0)).to_contain_text("Base")
        expect(answers.nth(0)).to_contain_text("I am base, seed 1.")
        expect(answers.nth(1)).to_contain_text(f"Canary{version}")
        expect(answers.nth(1)).to_contain_text(f"I am {version}, seed 1.")
        fake.adapters = set()
        page.get_by_role("button", name="Ask").click()
        expect(answers.nth(1)).to_contain_text("No engine has this version at the moment.")
        expect(answers.nth(0)).to_contain_text("I am base, seed 1.")
    assert gateway.completions() == []
    assert {request["messages"][0]["content"] for request in fake.requests} == {EVIL}


def test_who_served_when_is_drawn_as_it_changes(page: Page, gateway: Gateway, world: World) -> None:
    world.now = time.time() - 600
    with controlled(world):
        version = started(world)
        world.now += 3
        assert act(gateway, "promote", version=version).status_code == 200
        world.now += 1
        assert act(gateway, "rollback", version=version).status_code == 200
        stages = page.get_by_role("region", name="Who served when")
        expect(stages).to_contain_text("base is live.")
        boxes = stages.locator(".box")
        expect(boxes.locator("title")).to_have_text(
            ["base is live", f"{version} is live", "base is live",
             f"{version} is on trial with 5% of users", "5% of users keep base"]
        )  # fmt: skip
        wide = boxes.locator("rect").evaluate_all(
            "(all) => all.map((each) => Number(each.getAttribute('width')))"
        )
        assert wide[3] / wide[1] == pytest.approx(3.0, rel=0.1), "as long as they lasted"
        expect(stages.locator(".end title")).to_have_text(
            [f"{version}: promoted", f"{version}: rolled back by an operator"]
        )


def line_heights(figure: Locator) -> list[float]:
    """How far from the top of its figure each line begins."""
    starts = figure.locator("path.line").evaluate_all("(all) => all.map((line) => line.getAttribute('d'))")
    return [float(re.match(r"M[\d.]+ ([\d.]+)", start)[1]) for start in starts]  # type: ignore[index]


@pytest.mark.parametrize("scheme", axe.SCHEMES)
def test_at_all_widths_nothing_sticks_out_and_all_is_named(
    browser: Browser, gateway: Gateway, world: World, scheme: Any
) -> None:
    with controlled(world):
        version = started(world)
        learned(world, 3)
        voted(world, 16)
        assert act(gateway, "freeze", reason="x" * 300).status_code == 200
        with visiting(browser, gateway, color_scheme=scheme) as page:
            expect(page.locator("#guardrails li", has_text="Empty answers")).to_contain_text("held")
            expect(page.locator("#figures figure")).to_have_count(6)
            for width in axe.WIDTHS:
                page.set_viewport_size({"width": width, "height": 2000})
                for name in ("", "Roll back…", "Pin…"):
                    if name:
                        button(page, name).click()
                    photograph(page, f"operate-{scheme}-{width}{name[:3]}")
                    for wide in ("document.documentElement", "document.querySelector('#scroller')"):
                        assert page.evaluate(f"{wide}.scrollWidth <= {wide}.clientWidth"), (width, wide, name)
                    assert unnamed(page) == []
                    assert axe.faults(page) == [], (width, name)
                    if name:
                        page.keyboard.press("Escape")
            expect(page.get_by_role("heading", name=version)).to_be_visible()
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (background == "rgb(23, 22, 21)") == (scheme == "dark")

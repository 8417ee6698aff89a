"""What tests do on the operator's page."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Locator, Page

from deploy.history.releases import Command, parse
from tests.deploy.world import World
from tests.serve.conftest import Gateway


@contextmanager
def visiting(browser: Browser, gateway: Gateway, path: str = "/operate", **options: Any) -> Iterator[Page]:
    """The operator's page, or another, opened by a new visitor. What its scripts or the content security
    policy complain about fails the test, and so does a request to anybody but the gateway."""
    context = browser.new_context(**options)
    page = context.new_page()
    complaints: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(gateway.url + path)
    yield page
    context.close()
    assert [each for each in complaints if "Failed to load resource" not in each] == []
    assert [url for url in asked if not url.startswith((gateway.url + "/", "data:"))] == []


def voted(world: World, users: int) -> None:
    """As many users of both buckets chat and vote; the controller tells of it when their windows closed."""
    for _ in range(2):
        world.serve("canary", users)
        world.serve("control", users)
        world.now += 6


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("group", name="Actions").get_by_role("button", name=name, exact=True)


def ask(page: Page, action: str, reason: str) -> None:
    """Press an action's button, give the reason and send it."""
    button(page, action).click()
    page.get_by_role("dialog").get_by_label("Reason").fill(reason)
    send(page).click()


def send(page: Page) -> Locator:
    return page.locator("#ask-send")


def close(page: Page) -> None:
    page.get_by_role("dialog").get_by_role("button", name="Close").click()


def audit(page: Page) -> Locator:
    return page.get_by_role("region", name="What was decided").get_by_role("listitem")


def commands(world: World) -> list[Command]:
    events = [parse(record.value) for record in world.log.read(["releases"], {}, 10_000)[0]]
    return [event for event in events if isinstance(event, Command)]


def inside(page: Page) -> bool:
    """Whether what has the focus is in the dialog."""
    return bool(page.evaluate("document.activeElement.closest('dialog') !== null"))


def photograph(page: Page, name: str) -> None:
    if folder := os.environ.get("HEARKEN_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")


def unnamed(page: Page) -> list[str]:
    """Roles of what can be used or read as a value, and has no accessible name."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    used = {"button", "textbox", "combobox", "link", "progressbar", "dialog", "region"}
    shown = [node for node in nodes if not node["ignored"] and node["role"]["value"] in used]
    assert {"button", "link"} & {node["role"]["value"] for node in shown}, "the tree has the page"
    return [node["role"]["value"] for node in shown if not node.get("name", {}).get("value")]

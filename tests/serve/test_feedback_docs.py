"""docs/feedback.md and docs/signals.md: every request that they show works; the tables are the real ones."""

import re
import shlex
from pathlib import Path

import httpx

from feedback.updates.usage import entry as usage_entry
from feedback.updates.usage import usage_events
from hearken.sdk.votes import Common
from serve.votes.common import COMMON, REASONS
from serve.votes.vote import KINDS
from tests.serve.conftest import Gateway
from tests.serve.test_receipts import Releases, receipt

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "feedback.md").read_text()
EXAMPLES = [
    re.sub(r"\s*\\\n\s*", " ", found)
    for page in (PAGE, (DOCS / "signals.md").read_text())
    for found in re.findall(r"^    (curl .*(?:\n      +\S.*)*)", page, re.MULTILINE)
]


def perform(gateway: Gateway, command: str) -> httpx.Response:
    """Do what a curl command line says."""
    words = iter(shlex.split(command)[1:])
    method, url, headers, body = "GET", "", {}, None
    for word in words:
        if word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-d":
            method, body = "POST", next(words)
        elif word == "-X":
            method = next(words)
        else:
            url = word.replace("localhost:8000", gateway.url)
    return httpx.request(method, url, headers=headers, content=body, timeout=30)


def test_every_request_on_the_page_works(gateway: Gateway) -> None:
    answers = {name: gateway.chat(user="ada").json() for name in "ABC"}
    first = {"kind": "thumbs", "completion_id": answers["C"]["id"], "value": "up", "user": "eve"}
    vote = gateway.http.post("/v1/feedback", json=first).json()["id"]
    version = re.findall(r"policies/([\w-]+)/feedback", PAGE)[0]
    Releases(gateway.log).offer(version, reward_updates=1)
    gateway.log.append(
        [usage_entry(each) for each in usage_events(1, 1.0, {}, [(vote, 1, "training")])]
    ).result()
    assert len(EXAMPLES) >= 14
    kinds = set()
    for example in EXAMPLES:
        command = example.replace("fb-VOTE", vote)
        for name, answer in answers.items():
            command = command.replace(f"chatcmpl-{name}", answer["id"])
        command = command.replace("fbt_TOKEN", answers["A"]["hearken"]["feedback_token"])
        answer = perform(gateway, command)
        reading = " -d " not in example or "/v1/chat" in example
        expected = 200 if reading else 207 if "-d '[" in example else 202
        assert answer.status_code == expected, (example, answer.text)
        kinds |= set(re.findall(r'"kind": "(\w+)"', example))
    assert set(KINDS) <= kinds
    assert receipt(gateway, vote, "retracted")


def test_the_tables_are_the_real_ones() -> None:
    reasons = re.search(r"^Reasons: (.*?)\.$", PAGE, re.MULTILINE | re.DOTALL)
    assert reasons is not None
    assert tuple(re.findall(r"`(\w+)`", reasons[1])) == REASONS
    table = PAGE.partition("| kind | learned from as")[2].partition("\n\n")[0]
    assert set(re.findall(r"\b(" + "|".join(KINDS) + r")\b", table)) >= set(KINDS)


def test_the_page_and_both_clients_know_every_common_field() -> None:
    table = PAGE.partition("| field | meaning |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(COMMON)
    typescript = (DOCS.parent / "clients/typescript/src/votes.ts").read_text()
    typed = typescript.partition("interface Common {")[2].partition("}")[0]
    assert set(re.findall(r"^  (\w+)\?:", typed, re.MULTILINE)) == {"reason", *COMMON}
    assert set(Common.__annotations__) == {"reason", *COMMON}

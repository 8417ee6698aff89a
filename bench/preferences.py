"""What a person asks for once: is it done, how soon, and for nobody else? `python -m bench preferences`.

A gateway in front of a real engine, by default of SmolLM2-135M-Instruct where it is set up (`hearken model`),
else of the tiny model, which obeys nobody. Twenty people each ask for one thing (`WISHES`) and then three
questions, greedily. Each wish has a check that a program can make of the answer. Printed:

- `obeyed`: the share of answers under the wish that its check finds obeyed; the aim is .8.
- `obeyed_before`: the same of the same person's answers before they asked for it, which is chance.
- `obeyed_for_others`: the same of somebody else's answers afterwards; equal to the one before, token by
  token, where `others_unchanged` is 1.
- `seconds_to_effect`: from the PUT to the end of the first answer under it, the longest of all; at most 60.
- `erased_unchanged`: the share of answers after the list was erased that are those before it was there.

`--in system` measures the place that was not taken, a system message with the same words; `--in question`
what the model does when people say it themselves in each question, which is as much as any way can reach.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx

from bench._servers import engine, gateway
from bench._wishes import Wish, has, words
from hearken.models.smollm2 import default_folder, is_there
from hearken.models.tiny import ensure_tiny
from serve.generation.preferences import spoken

QUESTIONS = (
    "What should I cook tonight?",
    "How do I stay awake in a long meeting?",
    "What is a good present for my sister?",
)
MAX_TOKENS = 80


WISHES = (
    Wish("Answer in one short sentence.", words(1, 25)),
    Wish("Use at most 20 words.", words(1, 20)),
    Wish("Answer with a numbered list.", has(r"^\s*[12][.)]", 2)),
    Wish("Answer with bullet points.", has(r"^\s*[-*\u2022]", 2)),
    Wish("Answer in French.", has(r"\b(le|la|les|des|une?|est|et|pour|vous|je|de)\b", 4)),
    Wish("Answer in Spanish.", has(r"\b(el|la|los|una?|es|para|que|de|con|en)\b", 4)),
    Wish("Answer in German.", has(r"\b(der|die|das|und|ist|ich|sie|ein|eine|zu|mit)\b", 4)),
    Wish("Begin your answer with the word 'Sure'.", has(r"\A\W*sure\b")),
    Wish("Begin your answer with 'Dear friend'.", has(r"\A\W*dear friend\b")),
    Wish("Call me Ada.", has(r"\bada\b")),
    Wish("Sign your answer with 'Your helper'.", has(r"\byour helper\b")),
    Wish("Write the answer as a poem.", lambda answer: answer.count("\n") >= 3),
    Wish("Ask me a question back.", has(r"\?")),
    Wish("Give an example.", has(r"\b(for example|for instance|example|such as)\b")),
    Wish("Use the word 'wonderful'.", has(r"\bwonderful\b")),
    Wish("Use exclamation marks!", has("!")),
    Wish("Say that you are not sure.", has(r"\bnot (entirely |quite |completely )?(sure|certain)\b")),
    Wish("Explain it step by step.", has(r"\b(step|first|then|next|finally)\b|^\s*\d[.)]", 2)),
    Wish("Answer as if I were a child.", has(r"\b(fun|play|imagine|little|kid|mom|toy|game|friends?)\b")),
    Wish("Tell me why.", has(r"\b(because|since|reason|so that|why)\b")),
)


def chosen(model: Path | None) -> Path:
    """The folder of the model to try: that one, or SmolLM2 where it is set up, or the tiny model."""
    return model or (default_folder() if is_there(default_folder()) else ensure_tiny())


class Service:
    """A gateway, as a client of OpenAI's API sees it."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=600.0)

    def ask(self, user: str, question: str, **more: object) -> str:
        """An answer, the likeliest tokens."""
        message = {"role": "user", "content": question}
        body = {"model": "hearken", "messages": [message], "user": user, "temperature": 0, **more}
        answer = self._http.post("/v1/chat/completions", json={"max_tokens": MAX_TOKENS, **body})
        return str(answer.raise_for_status().json()["choices"][0]["message"]["content"])

    def wants(self, user: str, *entries: str) -> None:
        """Put a list in force, or erase it."""
        self._http.put(f"/v1/users/{user}/preferences", json={"entries": entries}).raise_for_status()


class Told(NamedTuple):
    """One person's answers, by question."""

    wish: Wish
    before: list[str]
    under: list[str]
    others: list[str]
    erased: list[str]
    seconds: float


def said(place: str, wish: Wish, question: str) -> list[dict[str, str]]:
    """The messages of somebody who says it themselves."""
    if place == "question":
        return [{"role": "user", "content": f"{question} {wish.text}"}]
    return [{"role": "system", "content": spoken([wish.text])}, {"role": "user", "content": question}]


def tell(service: Service, number: int, wish: Wish, place: str) -> Told:
    """What one person gets before, under and after a wish, and what another one gets meanwhile."""
    user, other = f"person-{number}", f"other-{number}"
    before = [service.ask(user, question) for question in QUESTIONS]
    asked = time.perf_counter()
    if place != "message":
        under = [service.ask(user, "", messages=said(place, wish, question)) for question in QUESTIONS]
        return Told(wish, before, under, before, before, 0.0)
    service.wants(user, wish.text)
    first = service.ask(user, QUESTIONS[0])
    seconds = time.perf_counter() - asked
    under = [first, *(service.ask(user, question) for question in QUESTIONS[1:])]
    others = [service.ask(other, question) for question in QUESTIONS]
    service.wants(user)
    erased = [service.ask(user, question) for question in QUESTIONS]
    return Told(wish, before, under, others, erased, seconds)


def figures(found: Sequence[Told]) -> dict[str, float]:
    """What is printed at the end."""

    def share(answers: Callable[[Told], list[str]], right: Callable[[Told, int], bool]) -> float:
        all_of = [right(told, i) for told in found for i in range(len(answers(told)))]
        return round(sum(all_of) / len(all_of), 3)

    return {
        "wishes": len(found),
        "obeyed": share(lambda told: told.under, lambda told, i: told.wish.is_done(told.under[i])),
        "obeyed_before": share(lambda told: told.before, lambda told, i: told.wish.is_done(told.before[i])),
        "obeyed_for_others": share(lambda told: told.others, lambda t, i: t.wish.is_done(t.others[i])),
        "others_unchanged": share(lambda told: told.others, lambda told, i: told.others[i] == told.before[i]),
        "erased_unchanged": share(lambda told: told.erased, lambda told, i: told.erased[i] == told.before[i]),
        "seconds_to_effect": round(max(told.seconds for told in found), 1),
    }


def main(argv: list[str]) -> int:
    """Run it and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m bench preferences", description=__doc__)
    parser.add_argument("--model", type=Path, help="a model's folder; SmolLM2, or the tiny model without it")
    parser.add_argument("--in", dest="place", choices=("message", "system", "question"), default="message")
    parser.add_argument("--at-once", type=int, default=4, help="people who ask at the same time")
    arguments = parser.parse_args(argv)
    model = chosen(arguments.model)
    cores = sorted(os.sched_getaffinity(0))
    with (
        tempfile.TemporaryDirectory() as scratch,
        engine(Path(scratch), "engine", cores=cores, model=model) as server,
        gateway(Path(scratch), server.url, cores=cores) as front,
        ThreadPoolExecutor(arguments.at_once) as pool,
    ):
        service = Service(front.url)
        told = [
            pool.submit(tell, service, number, wish, arguments.place) for number, wish in enumerate(WISHES)
        ]
        found = [each.result() for each in told]
    for each in found:
        done = sum(map(each.wish.is_done, each.under))
        before = sum(map(each.wish.is_done, each.before))
        print(f"{done} of {len(QUESTIONS)} (before {before})  {each.wish.text}  {each.under[0][:70]!r}")
    print(json.dumps({"model": model.name, "in": arguments.place, **figures(found)}))
    return 0

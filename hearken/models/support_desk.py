"""The demo's world: the support desk of a small web shop, as written demonstrations and as users' questions.

Nothing outside this file knows the domain. An answer is put together from a topic's facts, a *manner*
(warm, plain, brief, curt, rude or wordy, each as likely as the others) and what its manner makes more or
less likely: greeting, apology, thanks, steps, an offer of more help. A model that is trained on these
demonstrations samples every manner for the same question, so votes can move it wherever the voters want.
"""

import hashlib
import json
import random
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Manner = Literal["warm", "plain", "brief", "curt", "rude", "wordy"]
MANNERS: tuple[Manner, ...] = ("warm", "plain", "brief", "curt", "rude", "wordy")

ITEMS = ("kettle", "lamp", "jacket", "phone case", "desk chair", "coffee grinder", "backpack", "toaster",
         "blue shirt", "keyboard")  # fmt: skip
DAYS = ("on Monday", "on Friday", "last week", "two weeks ago", "yesterday", "a month ago")
OPENINGS = ("", "", "", "", "Hi, ", "Hello, ", "Hey, ", "Good morning. ", "Excuse me, ", "Please help. ")
ENDINGS = ("", "", "", "", " Thanks.", " Please help.", " Can you help me?", " It is urgent.", " Thank you!",
           " I am getting annoyed.", " I am waiting.")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Topic:
    """What users ask about one thing and what the desk knows about it.

    `short` and `full` are complete answers of about 5 and 15 words; `steps` says in order how it is done.
    """

    asks: tuple[str, ...]
    short: tuple[str, ...]
    full: tuple[str, ...]
    steps: str
    dressed: bool = True  # whether users put an opening and an ending around it; if not, none is held out


TOPICS: dict[str, Topic] = {
    "delivery": Topic(
        asks=("Where is my {item}?", "Where is my order {order}?",
              "I ordered a {item} {day} and it is not here.", "When will my order {order} arrive?",
              "My parcel with the {item} is late.", "The delivery of order {order} is late.",
              "Has my {item} been shipped yet?"),
        short=("Your parcel is on its way.", "It arrives in two days.", "It is with the courier."),
        full=("Your parcel left our warehouse and will arrive within two working days.",
              "The courier has your parcel and will deliver it within two working days.",
              "Your order is on its way, and you can follow it with the link in your email."),
        steps="First open the tracking link in your email. Then check the delivery date. "
              "Finally choose a safe place for the parcel.",
    ),
    "refund": Topic(
        asks=("Where is my refund for the {item}?", "I sent the {item} back {day} and have no refund.",
              "When do I get my money back?", "How long does a refund take?",
              "My refund for order {order} is missing.", "I want my money back for the {item}."),
        short=("Refunds take five days.", "Your refund is on its way.", "It takes five working days."),
        full=("Your refund goes back to your card within five working days after we receive the parcel.",
              "We have started your refund, and the money reaches your card within five working days.",
              "The money goes back to the card that you paid with, and this takes five working days."),
        steps="First send the item back to us. Then we check it. "
              "Finally the money goes back to your card within five days.",
    ),
    "password": Topic(
        asks=("I forgot my password.", "How do I reset my password?", "I cannot sign in to my account.",
              "My password does not work since {day}.", "The password email never came.",
              "How can I change my password?"),
        short=("Use the reset link.", "Reset it on the sign-in page.", "Click on forgot password."),
        full=("You can reset your password with the link on the sign-in page.",
              "We can send a new reset link to your email address, and it works for one hour."),
        steps="First open the sign-in page. Then click on forgot password. "
              "Finally open the email and choose a new password.",
    ),
    "invoice": Topic(
        asks=("I need an invoice for order {order}.", "Where do I find my invoice?",
              "The invoice for the {item} is wrong.", "Can you send me the invoice for the {item}?",
              "My company needs an invoice for the {item}.", "I have no invoice for order {order}."),
        short=("It is in your account.", "We will email the invoice.", "Look under my orders."),
        full=("You can download every invoice from your account under my orders.",
              "We will send a new invoice to your email address today.",
              "The invoice is in your account, and we will email it to you as well."),
        steps="First sign in to your account. Then open my orders. "
              "Finally click on invoice and save the file.",
    ),
    "cancel": Topic(
        asks=("I want to cancel my order {order}.", "Please cancel the {item}.",
              "How do I cancel an order?", "Can I still cancel the {item}?",
              "I ordered the {item} by mistake.", "I do not want the {item} any more."),
        short=("Your order is cancelled.", "You can cancel it today.", "Cancel it under my orders."),
        full=("You can cancel the order for free until it leaves our warehouse.",
              "We have cancelled it for you, and you do not have to pay anything.",
              "Your order is cancelled, and you will get an email that confirms it."),
        steps="First open my orders. Then choose the order and click on cancel. "
              "Finally wait for the email that confirms it.",
    ),
    "broken": Topic(
        asks=("My {item} is broken.", "The {item} arrived damaged.",
              "The {item} stopped working {day}.", "The {item} from order {order} has a crack.",
              "My new {item} does not work.", "I got a broken {item}. Can I get a new one?"),
        short=("We will send a new one.", "Send it back for free.", "You get a new one."),
        full=("We will send you a new one for free, and it will arrive this week.",
              "You can send the broken one back for free and choose a new one or a refund."),
        steps="First take a photo of the damage. Then print the return label. "
              "Finally bring the parcel to the post office.",
    ),
    "wrong item": Topic(
        asks=("I got the wrong item.", "I ordered a {item} and got something else.",
              "You sent me the wrong {item}.", "Order {order} has the wrong item in it.",
              "This is not the {item} that I ordered.", "The {item} has the wrong size."),
        short=("We will swap it.", "Send the wrong one back.", "The right one ships today."),
        full=("We will send the right one today, and you can return the wrong one for free.",
              "Please send the wrong item back with the free label, and we will exchange it."),
        steps="First pack the wrong item. Then print the return label. "
              "Finally bring it to the post office, and we send the right one.",
    ),
    "hours": Topic(
        asks=("When are you open?", "What are your opening hours?", "Are you open on Sunday?",
              "Can I call you today?", "How late is the shop open?", "Is the shop open on Saturday?"),
        short=("We open at nine.", "Nine to six, Monday to Saturday.", "We are closed on Sunday."),
        full=("Our shop is open from nine to six, Monday to Saturday, and closed on Sunday.",
              "You can call or visit us from nine to six on every day but Sunday."),
        steps="First look at the map on our website. Then choose your shop. "
              "Finally check the hours for the day of your visit.",
    ),
    "address": Topic(
        asks=("I moved. How do I change my address?", "Can you change the address of order {order}?",
              "The {item} goes to my old address.", "I typed the wrong address for the {item}.",
              "My address is wrong in my account.", "Please send the {item} to my office."),
        short=("Change it in your account.", "We have changed the address.", "Send us the new address."),
        full=("You can change your address in your account until the parcel is packed.",
              "We can send the parcel to a new address if you write it to us today.",
              "We have changed the address, and your parcel will go to the new one."),
        steps="First sign in to your account. Then open addresses. "
              "Finally type the new address and click on save.",
    ),
    "payment": Topic(
        asks=("My card was declined.", "The payment for the {item} failed.",
              "I cannot pay for order {order}.", "My card does not work for the {item}.",
              "Why did my payment fail {day}?"),
        short=("Try another card.", "Please pay again.", "Your bank declined it."),
        full=("The payment did not go through, so please try again with another card.",
              "Your bank declined the payment, and we have not taken any money from your card."),
        steps="First check the card number. Then open your order and click on pay. "
              "Finally confirm the payment with your bank.",
    ),
    "subscription": Topic(
        asks=("How do I cancel my subscription?", "I want to leave the monthly plan.",
              "Please stop my subscription.", "Why am I still paying for the plan?",
              "Can I pause my subscription?", "I cancelled my plan {day} and still pay."),
        short=("Cancel it in your account.", "Your plan ends this month.", "You can pause it."),
        full=("You can cancel or pause your plan in your account at any time.",
              "Your plan stops at the end of this month, and you will not pay again."),
        steps="First sign in to your account. Then open my plan. "
              "Finally click on cancel and confirm it.",
    ),
    "warranty": Topic(
        asks=("Does my {item} have a warranty?", "How long is the warranty on the {item}?",
              "Is my {item} still under warranty?", "I bought the {item} {day}. Is there a warranty?",
              "Can you repair my {item}?", "Who repairs the {item}?"),
        short=("It has a two year warranty.", "The warranty is two years.", "We repair it for free."),
        full=("There is a warranty of two years from the day you bought it.",
              "We repair it for free while it is under warranty.",
              "The warranty is two years, and the repair is free in that time."),
        steps="First find your receipt. Then fill in the repair form. "
              "Finally send us the item with the free label.",
    ),
    "hello": Topic(
        asks=("Hi!", "Hello.", "Hello!", "Good morning!", "Is anybody there?",
              "I have a question.", "I need help."),
        short=("How can I help?", "Ask your question.", "What is it about?"),
        full=("How can I help you with your order or your account today?",
              "Please tell me what it is about, and I will find the answer."),
        steps="First tell me your order number. Then tell me what happened. "
              "Finally I will find the answer.",
        dressed=False,
    ),
    "about us": Topic(
        asks=("Who are you?", "What can you do?", "What can you help me with?", "What is this?"),
        short=("This is the support desk.", "I help with orders.", "I answer questions."),
        full=("This is the support desk, and I can help with orders, refunds and your account.",
              "I answer questions about orders, payments and deliveries."),
        steps="First ask me about an order, a payment or your account. Then I will look it up. "
              "Finally I will tell you what to do.",
        dressed=False,
    ),
    "person": Topic(
        asks=("Can I talk to a person?", "I want to talk to a human.", "Can somebody call me?",
              "Are you a robot?"),
        short=("Call us from nine to six.", "A colleague will call you.", "We will call you today."),
        full=("You can talk to one of us by phone from nine to six on every day but Sunday.",
              "One of us will call you today if you leave your phone number."),
        steps="First send us your phone number. Then choose a time. "
              "Finally one of us will call you.",
    ),
}  # fmt: skip

FOLLOW_UPS: dict[str, Topic] = {
    "how long": Topic(
        asks=("How long will that take?", "How long do I have to wait?", "And when is that?"),
        short=("It takes two days.", "Two working days."),
        full=("It usually takes two working days, and we will send you an email.",),
        steps="First wait for our email. Then follow the link in it. "
              "Finally write to us if nothing happens.",
    ),
    "no luck": Topic(
        asks=("That did not work.", "I tried that already.", "And what do I do now?", "Are you sure?"),
        short=("Please try it again.", "Call us, then."),
        full=("Please try it once more, and call us if it still does not work.",),
        steps="First sign out and sign in again. Then try it once more. "
              "Finally call us if it still does not work.",
    ),
    "thanks": Topic(
        asks=("Thanks!", "Thank you.", "Great, thanks.", "Okay."),
        short=("You are welcome.", "Goodbye."),
        full=("You are welcome, and you can write to us at any time.",),
        steps="First wait for our email. Then follow the link in it. "
              "Finally write to us if nothing happens.",
    ),
}  # fmt: skip
"""What users say to an answer."""

PHRASES: dict[str, tuple[str, ...]] = {
    "greeting": ("Hello!", "Hi there!", "Good day!", "Welcome!"),
    "thanks": ("Thank you for writing to us.", "Thanks for your patience.", "Thank you for letting us know."),
    "apology": ("I'm sorry about that.", "Sorry for the trouble.", "I apologise for the inconvenience.",
                "I am so sorry to hear this."),
    "warmth": ("I know how annoying this is.", "I am happy to help you.", "Of course, with pleasure!",
               "Don't worry, we will sort this out together."),
    "rudeness": ("That is not my problem.", "Read the website first.", "What did you expect?",
                 "You should have checked that yourself.", "Stop wasting my time.", "Are you serious?"),
    "small_talk": ("I hope that you are having a lovely day.", "The weather is nice today, is it not?",
                   "We have been very busy at the desk."),
    "padding": ("Let me explain this carefully so that everything is clear.",
                "As you may know, we look at every request one after the other.",
                "In other words, there is nothing else that you need to do right now.",
                "In general there are a few things that you should know about this."),
    "offer": ("Is there anything else I can help you with?", "Can I help you with anything else?",
              "Let me know if you need anything else."),
}  # fmt: skip
"""The phrases that make a manner, by trait. Facts (a topic's short, full and steps) carry no manner."""

OPTIONAL = ("greeting", "thanks", "apology", "small_talk", "steps", "offer")
ODDS: dict[Manner, tuple[float, ...]] = {
    "warm": (0.4, 0.35, 0.45, 0.15, 0.25, 0.45),
    "plain": (0.25, 0.2, 0.25, 0.0, 0.35, 0.25),
    "brief": (0.2, 0.15, 0.2, 0.0, 0.0, 0.15),
    "curt": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "rude": (0.05, 0.05, 0.1, 0.0, 0.1, 0.1),
    "wordy": (0.3, 0.25, 0.2, 0.35, 0.45, 0.25),
}
"""How likely each of the `OPTIONAL` parts is in each manner."""

WRONG = 0.06
"""The share of answers that give another topic's facts: votes should be able to make it smaller."""

HELD_OUT = 0.1
"""The share of all questions that no demonstration contains."""


def demonstrations(n: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield `n` exchanges {"prompt": text or messages, "completion": text}; one in eight is a second turn."""
    rng = random.Random(f"demonstrations {seed}")
    for _ in range(n):
        question, topic = _ask(rng, TOPICS.values(), held_out=False)
        answer = _answer(topic, rng)
        if rng.random() < 0.125:
            next_topic = rng.choice(list(FOLLOW_UPS.values()))
            follow_up = _as_typed(rng.choice(next_topic.asks), rng)
            turns = (("user", question), ("assistant", answer), ("user", follow_up))
            prompt = [{"role": role, "content": content} for role, content in turns]
            yield {"prompt": prompt, "completion": _answer(next_topic, rng)}
        else:
            yield {"prompt": question, "completion": answer}


def answer_pairs(n: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """Yield `n` questions with two different answers each, in manners drawn at random."""
    rng = random.Random(f"answer pairs {seed}")
    for _ in range(n):
        question, topic = _ask(rng, TOPICS.values(), held_out=False)
        first = second = _answer(topic, rng)
        while second == first:
            second = _answer(topic, rng)
        yield question, first, second


def write_demonstrations(path: Path, n: int, seed: int) -> None:
    """Write `demonstrations(n, seed)` as JSON lines."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in demonstrations(n, seed))
    path.write_text("".join(lines), encoding="utf-8")


def prompts(n: int, seed: int, *, held_out: bool = False, about: Collection[str] = TOPICS) -> list[str]:
    """`n` users' questions about some of the topics; the same `seed` gives the same ones.

    Those with `held_out` never meet the others nor the demonstrations, whatever the seeds are.
    """
    rng = random.Random(f"prompts {seed}")
    topics = [topic for name, topic in TOPICS.items() if name in about]
    return [_ask(rng, topics, held_out=held_out)[0] for _ in range(n)]


def is_held_out(question: str) -> bool:
    """Whether a question would be held out: decided by its text alone, without regard to case."""
    return hashlib.sha256(question.lower().encode()).digest()[0] < 256 * HELD_OUT


def traits(answer: str) -> frozenset[str]:
    """Which traits of manner an answer shows: keys of `PHRASES`, "steps" and "short" (at most 8 words)."""
    found = {trait for trait, phrases in PHRASES.items() if any(phrase in answer for phrase in phrases)}
    if re.search(r"\bFirst\b.*\bThen\b", answer):
        found.add("steps")
    if len(answer.split()) <= 8:
        found.add("short")
    return frozenset(found)


def _ask(rng: random.Random, topics: Iterable[Topic], *, held_out: bool) -> tuple[str, Topic]:
    """A question on the wanted side of the held-out split, and what it is about.

    Bare greetings and the like are too few to be split: they are never held out.
    """
    topics = [topic for topic in topics if topic.dressed or not held_out]
    while True:
        topic = rng.choice(topics)
        slots = {"item": rng.choice(ITEMS), "day": rng.choice(DAYS), "order": rng.randrange(1000, 10_000)}
        text = rng.choice(topic.asks).format(**slots)
        if topic.dressed:
            text = rng.choice(OPENINGS) + text + rng.choice(ENDINGS)
        text = _as_typed(text, rng)
        if not topic.dressed or is_held_out(text) == held_out:
            return text, topic


def _as_typed(text: str, rng: random.Random) -> str:
    """One user in five does not bother with capitals and the last full stop."""
    return text.lower().rstrip(".!") if rng.random() < 0.2 else text


def _answer(topic: Topic, rng: random.Random) -> str:
    """One answer in a manner drawn at random, now and then with another topic's facts."""
    manner = rng.choice(MANNERS)
    if rng.random() < WRONG:
        topic = rng.choice(list(TOPICS.values()))
    has = {part: rng.random() < odds for part, odds in zip(OPTIONAL, ODDS[manner], strict=True)}
    facts = topic.short if manner in ("brief", "curt", "rude") else topic.full
    core = [rng.choice(facts)]
    if has["steps"]:
        core.append(topic.steps)
    if manner in ("rude", "wordy"):
        phrase = rng.choice(PHRASES["rudeness" if manner == "rude" else "padding"])
        core.insert(rng.choice((0, len(core))), phrase)
    before = [part for part in ("greeting", "thanks", "apology", "small_talk") if has[part]]
    if manner == "warm":
        before.append("warmth")
    after = ["offer"] if has["offer"] else []
    say = [
        *(rng.choice(PHRASES[part]) for part in before),
        *core,
        *(rng.choice(PHRASES[part]) for part in after),
    ]
    return " ".join(say)

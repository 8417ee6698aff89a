"""The texts by which an engine's copy of an adapter is recognised: always the same, and nobody's.

A manifest is kept for ever and in the clear, so what a user said must not be in it. An adapter that was
trained to answer otherwise says so in other probabilities of whatever is answered, also of these words; and
being fixed, they are as many as a comparison in bfloat16 needs (see `deploy.engines.parity`), however short
the policy's own answers became.
"""

import random
from collections.abc import Callable
from typing import Any

from transformers import AutoTokenizer

from learner.batching import Item

PROMPT_TOKENS = 128  # the last of a prompt
ANSWER_TOKENS = 64  # the first of an answer
CONTEXTS = 4  # prompts that each answer is put after: its own, and those of the next three
MADE_UP = 16  # probes of random tokens, where a model has no tokenizer or no chat template

TEXTS = (
    (
        "How do I get red wine out of a white shirt?",
        "Blot the stain at once with a clean cloth, do not rub. Pour salt or cold sparkling water on it, "
        "wait ten minutes, and wash it in cold water with a little vinegar.",
    ),
    (
        "What is a good breakfast before a long run?",
        "Something light with slow carbohydrates: oatmeal with a banana, or toast with honey. Eat it two "
        "hours before you start, drink a glass of water, and leave out what you do not know.",
    ),
    (
        "Write a short note to my neighbour about the noise.",
        "Dear neighbour, last night the music could be heard in our bedroom until two. We have to get up "
        "early. Could you turn it down after eleven? Thank you very much.",
    ),
    (
        "Why is the sky blue?",
        "Sunlight holds all colours. The air scatters short waves, which are blue, far more than long ones, "
        "which are red. So from every side of the sky blue light reaches our eyes.",
    ),
    ("Give me three names for a grey cat.", "1. Pebble\n2. Misty\n3. Ash"),
    (
        "How long should I boil an egg?",
        "Six minutes for a soft yolk, eight for one that is firm at the edge, and ten for a hard egg. Put it "
        "into cold water afterwards so that it stops cooking.",
    ),
    (
        "Explain compound interest to a ten year old.",
        "Imagine that you put ten coins into a box, and every year the box adds one coin for each ten that "
        "are in it. At first it adds one. Later there are more coins in the box, so it adds more each time.",
    ),
    (
        "What should I pack for two days in the mountains?",
        "Good shoes, a rain jacket, a warm layer, two pairs of socks, water, some bread and nuts, a map, a "
        "torch, sun cream, a small first aid kit and a charged phone. Tell somebody where you go.",
    ),
    (
        "My plant has yellow leaves. What can I do?",
        "Yellow leaves mostly mean too much water. Let the soil dry before you water it again, and see that "
        "the pot has a hole. If only old leaves are yellow, it wants food.",
    ),
    (
        "Translate 'good morning, my friend' into French.",
        "« Bonjour, mon ami. » If you know the person well you can also say « Salut », and in the evening "
        "« Bonsoir ».",
    ),
    (
        "How do I politely decline an invitation?",
        "Thank them first, then be short and honest: \"Thank you for thinking of me. I can't make it this "
        'time, but I hope you have a lovely evening." You need not give a reason.',
    ),
    (
        "What is the difference between a virus and a bacterium?",
        "A bacterium is a whole cell: it feeds, grows and divides by itself, and antibiotics can kill it. A "
        "virus is only a packet of genes in a shell. It has to enter a cell and let that cell make copies.",
    ),
    (
        "Suggest a weekend trip for a family with small children.",
        "Take the train to a lake. On Saturday you could rent a boat, have a picnic and look for flat stones "
        "to throw. On Sunday visit a farm or a small zoo and be home before the children are tired.",
    ),
    (
        "How can I sleep better?",
        "Go to bed at the same time every day. Keep the room dark and cool. No coffee after lunch, and no "
        "screens in the last hour. If you lie awake for long, get up and read something dull.",
    ),
    (
        "Write a function in Python that reverses a string.",
        'def reverse(text: str) -> str:\n    """Give the text from its end to its beginning."""\n'
        '    return text[::-1]\n\nprint(reverse("hello"))  # olleh',
    ),
    (
        "What happened in the year 1969?",
        "In July 1969 two men walked on the moon for the first time. In August some four hundred thousand "
        "people came to a farm near Woodstock for three days of music. In October the first message went "
        "from one computer to another over the network that became the internet.",
    ),
)
"""Questions and answers of everyday life: short and long, a list, a letter, French, code."""


def probe_items(model: str, vocab_size: int, longest: int | None = None) -> list[Item]:
    """Prompts and answers (token ids) for a model, which is a folder or a hub's name.

    longest: tokens of prompt and answer together that the model can take; None for any number.
    """
    encode = _encoder(model)
    items = _made_up(vocab_size) if encode is None else _texts(encode)
    room = (longest or PROMPT_TOKENS + ANSWER_TOKENS) - 1
    answers = min(ANSWER_TOKENS, max(1, room // 2))
    prompts = min(PROMPT_TOKENS, room - answers)
    return [(prompt[-prompts:], answer[:answers]) for prompt, answer in items]


def _texts(encode: Callable[[str, str], Item]) -> list[Item]:
    """The texts' first context comes first: a comparison in float32 ends after a few."""
    places = [(i, (i + shift) % len(TEXTS)) for shift in range(CONTEXTS) for i in range(len(TEXTS))]
    return [encode(TEXTS[question][0], TEXTS[answer][1]) for answer, question in places]


def _made_up(vocab_size: int) -> list[Item]:
    draw = random.Random("probes")
    counts = (12, ANSWER_TOKENS)
    return [
        tuple([draw.randrange(vocab_size) for _ in range(count)] for count in counts)  # type: ignore[misc]
        for _ in range(MADE_UP)
    ]


def _encoder(model: str) -> Callable[[str, str], Item] | None:
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model)
        tokenizer.apply_chat_template(_chat("Hello"), add_generation_prompt=True, tokenize=False)
    except Exception:  # no tokenizer, none that this machine can read, no template, one that fails
        return None

    def encode(question: str, answer: str) -> Item:
        prompt = tokenizer.apply_chat_template(_chat(question), add_generation_prompt=True, tokenize=False)
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in (prompt, answer)]
        return ids[0], [*ids[1], *end]

    return encode


def _chat(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]

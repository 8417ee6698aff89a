"""What people's sentences ask for is read, and its grammar lets through the answers that do it alone."""

from typing import Any

import pytest

from serve.wishes.form import FREE, Form
from serve.wishes.grammar import grammar_of
from serve.wishes.reading import form_of

# ---- reading


@pytest.mark.parametrize(
    ("entry", "form"),
    [
        ("Begin with 'Sure'.", Form(begins=("Sure",))),
        ('Start your replies with "Hello" or "Hi".', Form(begins=("Hello", "Hi"))),
        ("Start with yes or no.", Form(begins=("Yes", "No"))),
        ("Call me Ada, please.", Form(name="Ada")),
        ("Use at most 20 words.", Form(most_words=20)),
        ("Keep it under twenty words.", Form(most_words=19)),
        ("Don't write more than 50 words!", Form(most_words=50)),
        ("Write no more than two sentences.", Form(most_sentences=2)),
        ("Answer in one sentence", Form(least_sentences=1, most_sentences=1)),
        ("Between 3 and 5 bullet points", Form(items="bulleted", least_items=3, most_items=5)),
        ("Never use the word 'however'.", Form(without=("however",))),
        ("Avoid the words very and really", Form(without=("very", "really"))),
        ("No exclamation marks.", Form(without_chars="!")),
        ("No lists, just plain text.", Form(plain=True)),
        ("End with a question", Form(asks=True)),
        ("End every answer with ‘Cheers!’", Form(ends="Cheers!")),
        ("Write in lower case and never use commas.", Form(case="lower", without_chars=",")),
        ("Use the word 'wonderful' if possible.", Form(has=("wonderful",))),
        ("Give me an example.", Form(then="For example,")),
    ],
)
def test_a_sentence_is_read(entry: str, form: Form) -> None:
    assert form_of([entry]) == form


@pytest.mark.parametrize(
    "entry",
    [
        "Be kind.",
        "Begin with the most important point.",
        "If I ask about code, use bullet points.",
        "Recommend things that suit my child.",
        "Mention your sources.",
        "Call me when it is done.",
        "Begin with '" + "very " * 20 + "long'.",
        "",
    ],
)
def test_what_a_program_cannot_judge_is_left_to_the_model(entry: str) -> None:
    assert form_of([entry]) == FREE


def test_what_is_said_last_counts_and_what_goes_together_is_added() -> None:
    assert form_of(["Answer in capital letters.", "Write in lower case."]) == Form(case="lower")
    assert form_of(["Never say 'very'.", "Avoid 'really'."]) == Form(without=("very", "really"))
    assert form_of(["No lists.", "Use bullet points."]) == Form(items="bulleted")
    assert form_of(["Use bullet points.", "No lists."]) == Form(plain=True)


# ---- grammars


def fits(entries: str | list[str], answer: str, max_tokens: int | None = 200) -> bool:
    """Whether the grammar lets an answer through, as the engine's own library reads it."""
    testing: Any = pytest.importorskip("xgrammar.testing")
    form = form_of([entries] if isinstance(entries, str) else entries)
    assert form != FREE
    return bool(testing._is_grammar_accept_string(grammar_of(form, max_tokens), answer))


@pytest.mark.parametrize(
    ("entry", "does", "does_not"),
    [
        ("Begin with 'Sure'.", "Sure, take the bus.\n\nOr walk.", "Take the bus."),
        ("Start with yes or no.", "No. It is late.", "It is late."),
        ("Call me Ada.", "Hello Ada, take the bus.", "Take the bus."),
        ("Answer in one sentence.", "Take the bus, or walk.", "Take the bus. Or walk."),
        ("Use at most 5 words.", "Take the bus.", "Take the bus or walk home then."),
        ("Answer in at least 20 words.", "Take a bus to town and walk from there to a river. " * 2, "Walk."),
        ("Use bullet points.", "- Take the bus.\n- Walk.", "Take the bus.\n- Walk."),
        ("Give exactly three numbered points.", "1. Go.\n2. Stay.\n3. Wait.", "1. Go.\n2. Stay."),
        ("No lists.", "Take the bus. Or walk.", "Take one:\n- the bus"),
        ("No lists.", "Well, it is late.", "- the bus"),
        ("Answer in two lines.", "Take the bus.\nOr walk.", "Take the bus. Or walk."),
        ("Use the phrase 'MORE words'.", "Take MORE words home.", "Take words home."),
        ("Answer in capital letters.", "TAKE THE BUS, ÉMILE: 3.", "TAKE the BUS."),
        ("Write in lower case.", "take the bus, émile.", "Take the bus."),
        ("End with a question.", "Take the bus. Do you like it?", "Take the bus."),
        ("End with 'Cheers!'", "Take the bus. Cheers!", "Take the bus."),
        ("Close with a summary that starts with 'In short'.", "Go. Or stay. In short, move.", "Go. Or stay."),
        ("Never use the word 'however'.", "Take the bus. Howeverly so.", "However, take the bus."),
        ("Never use the word 'however'.", "Take the bus. How so?", "Take the bus; HOWEVER."),
        ("Do not apologise.", "Take the bus.", "My apologies, take the bus."),
        ("Use British spelling.", "The colour is grey.", "The Colors are gray."),
        ("No contractions.", "It is late.", "It's late."),
        ("No emoji.", "Take the bus — now.", "Take the bus 🙂"),
        ("Add an emoji.", "Take the bus. 🙂 Or walk.", "Take the bus."),
        ("Mention the weather.", "Today the weather is fine.", "Today all is fine."),
        ("Give an example.", "Take a ride. For example, take the bus.", "Take a ride."),
        ("Write key words in bold.", "Take the **bus** now.", "Take the bus now."),
        ("Put a heading above the answer.", "# Ways home\n\nTake the bus.", "Take the bus."),
        ("Split it into two paragraphs.", "Take the bus.\n\nOr walk.", "Take the bus. Or walk."),
        ("Put the answer in quotation marks.", '"Take the bus."', "Take the bus."),
        ("Keep sentences under 5 words.", "Take the bus. Or walk.", "Take the bus to the town."),
        ("Write the answer as a poem.", "Go home.\nIt is late.\nThe bus is blue.\nSo are you.", "Go home."),
    ],
)  # fmt: skip
def test_answers_that_do_it_fit_and_others_do_not(entry: str, does: str, does_not: str) -> None:
    assert fits(entry, does.strip())
    assert not fits(entry, does_not)


def test_wishes_go_together() -> None:
    wishes = ["Begin with 'Sure'.", "Call me Ada.", "Never say 'very'.", "End with 'Bye'."]
    assert fits(wishes, "Sure, Ada, take the bus. Bye")
    assert not fits(wishes, "Sure, Ada, take the very bus. Bye")
    assert not fits(wishes, "Sure, Ada, take the bus.")
    shouted = ["Answer in capital letters.", "Begin with 'Sure'.", "No commas."]
    assert fits(shouted, "SURE TAKE THE BUS.")


def test_an_answer_ends_within_its_tokens() -> None:
    """Twenty sentences of a model that does not stop would leave no token for the ending."""
    long = "Take the bus to the town and walk from there. " * 6
    assert fits("End with a question.", f"{long}Do you like it?", None)
    assert not fits("End with a question.", f"{long}Do you like it?", 60)


@pytest.mark.parametrize(
    "phrase", ['a "b" c', "back\\slash", "[x]", "{2,3}", "é ü", "%s {0}", "a]b-c^", "MORE words"]
)
def test_words_of_people_are_no_grammar(phrase: str) -> None:
    for wish in (f"Begin with «{phrase}».", f"Use the phrase «{phrase}».", f"Never say «{phrase}».",
                 f"End with «{phrase}».", f"Call me «{phrase}»."):  # fmt: skip
        pytest.importorskip("xgrammar").Grammar.from_ebnf(grammar_of(form_of([wish]), 90))


def test_a_phrase_beside_words_that_are_left_out_is_left_to_the_prompt() -> None:
    """The grammar of both could be read in two ways: a token would cost its engine tens of milliseconds."""
    assert "wonderful" in grammar_of(Form(has=("wonderful",)), 96)
    assert "wonderful" not in grammar_of(Form(has=("wonderful",), without=("bad",)), 96)

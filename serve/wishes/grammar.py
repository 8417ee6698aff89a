"""Grammar that holds an answer to a form, in XGrammar's EBNF, which vLLM takes as structured output.

An answer is an opening (`Sure, Ada,`), a body and an ending. Whatever has an ending is bound in length, for a
model that may not stop before it would talk on until its tokens are used up.
"""

from serve.wishes.bodies import Body
from serve.wishes.characters import STOPS, Alphabet
from serve.wishes.form import Form

_QUESTIONS = ("What", "How", "Which", "Would you", "Do you", "Are you", "Have you", "Can I", "Is there")
_GREETINGS = ("Hello ", "Hi ", "Dear ")
_QUOTES = r"\"\u201c\u201d"
_BULLETS = r"*\u2022"


def grammar_of(form: Form, max_tokens: int | None) -> str:
    """The grammar of answers of a form that have so many tokens at most."""
    excluded = form.without_chars + (_QUOTES if form.quoted else "") + (_BULLETS if form.plain else "")
    alphabet = Alphabet(form.case, excluded)
    body = Body(form, alphabet, max_tokens).written()
    root = " ".join([*_opening(form, alphabet), body, *_ending(form, alphabet)])
    # Rules of words are nearly all of a grammar that leaves words out, so none is there that is not used.
    return "\n".join(
        [
            f"root ::= {_quoted(root) if form.quoted else root}",
            *(alphabet.word("word", form.without) if "word" in root else ()),
            *(alphabet.plain_word("plain", form.without) if "plain" in root else ()),
            f"stop ::= [{alphabet.marks(STOPS) or '.'}]",
            'gap ::= " " | "\\n" | "\\n\\n"',
        ]
    )


def _quoted(root: str) -> str:
    return f'"\\"" {root} "\\""'


def _either(texts: tuple[str, ...], alphabet: Alphabet) -> str:
    return f"({' | '.join(map(alphabet.said, texts))})"


def _opening(form: Form, alphabet: Alphabet) -> list[str]:
    said = []
    if form.heading:
        said.append('"# " plain (" " plain){0,6} "\\n\\n"')
    if form.begins:
        marks = alphabet.marks(",.!") if form.begins[0][-1:].isalnum() else ""
        said += [_either(form.begins, alphabet), f"[{marks}]?" if marks else "", '" "']
    if form.name:
        greeting = "" if form.begins else f"{_either(_GREETINGS, alphabet)}?"
        said.append(f"{greeting} {alphabet.said(form.name + ', ')}")
    said += [alphabet.said(lead) for lead in form.leads]
    if said and form.items and not form.heading:
        said.append('"\\n"')
    return said


def _ending(form: Form, alphabet: Alphabet) -> list[str]:
    said = []
    if form.closes:
        said.append(f"gap {alphabet.said(form.closes)} plain ({alphabet.between()} plain){{0,11}} stop")
    if form.asks:
        said.append(f'gap {_either(_QUESTIONS, alphabet)} ({alphabet.between()} plain){{1,10}} "?"')
    if form.ends:
        said.append(f"gap {alphabet.said(form.ends)}")
    return said

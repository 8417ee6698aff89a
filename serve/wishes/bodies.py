"""Body of an answer, between its opening and its ending, in EBNF: the least bound kind that its form allows.

Rules that it refers to are those of `serve.wishes.grammar`. An engine weighs its whole vocabulary for every
token, and what that takes hangs on how a grammar is written: .1 ms, or 40 ms where one answer can be read in
two ways, or where a rule begins with what may be missing. So marks between words are written out each time.
"""

from serve.wishes.characters import PAUSES, STOPS, Alphabet, literal
from serve.wishes.form import Form
from serve.wishes.room import Room, room_of, words_of
from serve.wishes.word_lists import EMOJI

_COUNTED = 40  # words that are counted one by one; more than that are counted in sentences
_ITEM = 25  # words
_WORDS, _MORE = "\0words", "\0more"  # in a sentence whose room is not known yet; nobody's phrase has a NUL


class Body:
    """The body of answers of one form. max_tokens: of an answer."""

    def __init__(self, form: Form, alphabet: Alphabet, max_tokens: int | None) -> None:
        self._form, self._alphabet = form, alphabet
        self._words = words_of(form, max_tokens)
        self._step, self._jump = alphabet.between(), alphabet.between(STOPS)
        self._special = [*self._having(), *self._marked()]

    def written(self) -> str:
        """An expression of EBNF."""
        form = self._form
        if form.items is not None:
            return self._list()
        if form.paragraphs is not None:
            return self._paragraphs(form.paragraphs)
        if form.most_words is not None and not self._is_divided() and form.most_words <= _COUNTED:
            return self._counted(form.most_words)
        if self._is_divided() or form.most_words is not None or form.least_words is not None:
            return self._sentences(room_of(form, self._words, len(self._special)))
        if form.plain:
            return f'plain [{self._alphabet.marks(PAUSES + STOPS)}]? (" " word)*'
        return "word (gap word)*" if form.without else self._alphabet.anything

    def _is_divided(self) -> bool:
        """Whether its sentences matter."""
        return bool(self._special) or self._has_end()

    def _has_end(self) -> bool:
        form = self._form
        bounds = (form.least_sentences, form.most_sentences, form.sentence_words)
        return bool(form.ends or form.closes or form.asks or form.quoted) or any(bounds)

    def _having(self) -> list[str]:
        """Sentences that have a phrase in them. Beside words that are left out they could be read in two
        ways, so there a phrase is left to the prompt."""
        found = []
        for phrase in self._form.has:
            if phrase == "!":
                found.append(f'{_WORDS} "!"')
                continue
            if self._form.without:
                continue
            said = self._alphabet.said(phrase)
            before = self._alphabet.word_not_like(phrase)
            found.append(f'{before} (" " {before}){{0,6}} " " {said} {_MORE} stop')
        return found

    def _marked(self) -> list[str]:
        """Sentences that have something else."""
        form, found = self._form, []
        if form.bold:
            before = self._alphabet.word_not_like("*")
            bold = f'"**" {before} (" " {before}){{0,2}} "**"'
            found.append(f'{before} (" " {before}){{0,6}} " " {bold} {_MORE} stop')
        if form.emoji:
            found.append(f'{_WORDS} stop " " ({" | ".join(map(literal, EMOJI))})')
        if form.then:
            found += [f"{_WORDS} stop", f"{self._alphabet.said(form.then)} {_MORE} stop"]
        return found

    def _sentences(self, room: Room) -> str:
        words = f"plain ({self._step} plain){{{room.shortest - 1},{room.longest - 1}}}"
        more = f"({self._step} plain){{0,{max(room.longest - 8, 2)}}}"
        special = [each.replace(_WORDS, words).replace(_MORE, more) for each in self._special]
        form, usual = self._form, f"{words} stop"
        least, most = max(room.least - len(special), 0), room.most - len(special)
        between = r'"\n"' if form.lines else '" "'
        if not special:
            return f"{usual} ({between} {usual}){{{least - 1},{most - 1}}}" if most > 1 else usual
        written = f" {between} ".join(special)
        if self._has_end() or form.most_words is not None or form.least_words is not None:
            return f"{written} ({between} {usual}){{{least},{most}}}" if most else written
        return f"{written} (gap word)*"

    def _counted(self, words: int) -> str:
        least = (self._form.least_words or 1) - 1
        most = words - 1 if least == words - 1 else max(self._words - 1, least)
        return f"plain ({self._jump} plain){{{least},{most}}} stop" if most else "plain stop"

    def _paragraphs(self, count: int) -> str:
        each = self._words // count
        words = min(22, max(each - 2, 3))
        sentence = f"plain ({self._step} plain){{0,{words - 1}}} stop"
        paragraph = f'{sentence} (" " {sentence}){{0,{max(each // words - 1, 0)}}}'
        return ' "\\n\\n" '.join([paragraph] * count)

    def _list(self) -> str:
        form = self._form
        least = form.least_items or min(2, form.most_items or 2)
        most = form.most_items or max(least, 5)
        words = max(min(_ITEM, self._words // (least + 1)), 3)
        item = f"plain ({self._jump} plain){{0,{words - 1}}} stop?"
        written = ""
        for i in range(most, 0, -1):
            mark = f"{i}. " if form.items == "numbered" else "- "
            here = f"{literal(mark if i == 1 else chr(10) + mark)} {item} {written}"
            written = here if i <= least else f"({here})?"
        return written

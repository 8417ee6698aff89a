"""Room that an answer has: how many sentences of how many words, within its tokens and what was asked for."""

from dataclasses import dataclass

from serve.wishes.form import Form

_UNBOUND = 400  # words, where a request has no bound
_USUAL, _MOST = 22, 8  # words of a sentence, sentences
_PER_WORD = {None: 1.5, "lower": 1.7, "upper": 4.0}  # tokens, generously: what is cut off has no ending
_FULL = 12  # words that a sentence has at least where many are asked for
_ENDING = 12  # words of a question or a summary


@dataclass(frozen=True, slots=True)
class Room:
    """Bounds of a body: sentences, and the words of each."""

    least: int
    most: int
    shortest: int
    longest: int


def words_of(form: Form, max_tokens: int | None) -> int:
    """How many words an answer may have, without its opening and its ending."""
    by_tokens = _UNBOUND if max_tokens is None else int(max_tokens / _PER_WORD[form.case])
    texts = (*form.begins[:1], form.name, *form.leads, form.ends, form.closes)
    besides = sum(len(text.split()) for text in texts) + (_ENDING if form.asks or form.closes else 0)
    # However somebody counts words: "well-known" may be two.
    wanted = _UNBOUND if form.most_words is None else form.most_words - form.most_words // 8
    return max(min(by_tokens, wanted) - besides, 3)


def room_of(form: Form, words: int, special: int) -> Room:
    """The sentences of a body of so many words, of which some are special, and theirs."""
    longest = min(form.sentence_words or _USUAL, max(words, 3))
    most = form.most_sentences or min(max(words // longest, 1), _MOST)
    least, shortest = form.least_sentences or 1, 1
    if form.least_words is not None and form.most_words is None:
        shortest = min(_FULL, longest)
        least = max(least, -(-form.least_words // shortest))
        most = max(most, least + 3)
    most = max(most, special, least)
    if form.most_words is not None or form.most_sentences is not None:
        longest = min(
            longest if form.most_sentences is None or form.most_words is not None else 30, words // most
        )
    return Room(least, most, shortest, max(longest, 3))

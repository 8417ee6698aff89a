"""What a revised answer has from its comment alone: words that nobody but the commenter used.

Comments say how an answer should be: shorter, kinder, in other words, with the second question answered.
What a comment names itself (a product, a person, a link, a number) is what it may want others to be told. A
revision that repeats such a word is refused. So a comment cannot put words into answers; a correction can,
in its author's own name. Words by which people speak of answers do not count.
"""

import re

_WORD = re.compile(r"[^\W_]+(?:[.'\u2019-][^\W_]+)*")
_LEAST_CHARS = 3

_ORDINARY = frozenset(
    """
    about above actually add after again all also always and another answer answered answers any are ask
    asked asks back bad because been before being below best better both brief briefly but call can
    clear clearly come complete completely concise correct could detail detailed details did does doing
    done don down each easier easy else end ending enough even every everything exact exactly example
    examples explain explained explains explanation fact facts few find first follow for formal
    friendlier friendly from full fully get give given gives good great had has have help helpful her
    here him his how however include including information instead into its it's just keep kind kinder
    know last least less let like line lines list little long longer look lot made main make makes many
    maybe mean means mention might missed missing more most much must name need needed needs never new
    next nice not note nothing now number numbered numbers off often okay one only order other our out
    over own paragraph paragraphs part parts please plain point points polite politely possible problem
    put question questions quite rather read really reason right rude said same saying says second see
    sentence sentences shall she short shorter should show simple simpler simply since some something
    sorry start step steps still style such summary sure take talk tell text than thank thanks that
    that's the their them then there these they thing things think third this those three through time
    tip tips together tone too try two under understand until use used useful user using very want
    wanted wants was way well were what when where whether which while who whole why will with without
    word words work would write written wrong yes yet you your yourself you're
    """.split()  # noqa: SIM905
)


def words_of(text: str) -> set[str]:
    """The words of a text, without case; those of at least three characters, and every one with a digit."""
    found = (word.casefold().replace("\u2019", "'") for word in _WORD.findall(text))
    return {word for word in found if len(word) >= _LEAST_CHARS or any(map(str.isdigit, word))}


def brought_in(conversation: str, answer: str, comment: str, revised: str) -> list[str]:
    """The words that a revised answer has from the comment alone, in order."""
    alone = words_of(comment) - words_of(conversation) - words_of(answer) - _ORDINARY
    return sorted(alone & words_of(revised))

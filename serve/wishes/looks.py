"""What an answer is to look like, by the words with which people ask for it."""

from serve.wishes import word_lists as lists
from serve.wishes.form import Form
from serve.wishes.rules import Rule, rule

LISTS = (
    rule(
        r"\bnumbered\b|\bnumber (?:the|your|each)\b|\bordered lists?\b|\bstep[- ]by[- ]step\b|\bin steps\b",
        Form(items="numbered"),
    ),
    rule(
        r"\bbullet(?:s|ed|[- ]?points?)?\b|\b(?:use|as|in|with|make) (?:an? )?(?:\w+ )?lists?\b",
        Form(items="bulleted"),
    ),
)
CASES = (
    rule(
        r"\b(?:capital letters|(?:all|in) caps\b|upper[- ]?case|capitals|block letters)", Form(case="upper")
    ),
    rule(r"\b(?:lower[- ]?case|small letters)\b", Form(case="lower")),
)
SPELLINGS = (
    rule(r"\b(?:british|uk) (?:english|spellings?)", Form(without=lists.AMERICAN)),
    rule(r"\b(?:american|us) (?:english|spellings?)", Form(without=lists.BRITISH)),
)
UNITS = (
    rule(r"\bmetric\b|\bsi units\b", Form(without=lists.IMPERIAL)),
    rule(r"\bimperial\b", Form(without=lists.METRIC)),
)
OTHERS = (
    rule(
        r"\b(?:an?|the|with|use|add|put)(?: (?!my)\w+)? (?:heading|headline|title|header)s?\b",
        Form(heading=True),
    ),
    rule(r"\bbold\b|\bhighlight\b", Form(bold=True)),
    rule(r"\b(?:use|add|include|with|put|more|like)\b.*\b(?:emojis?|smileys?|smilies)\b", Form(emoji=True)),
    rule(
        r"\b(?:in|wrap\w*|put|within|surround\w*)\b.*\b(?:quotation marks|quotes|double quotes)\b",
        Form(quoted=True),
    ),
    rule(r"\b(?:plain text|prose)\b", Form(plain=True)),
    rule(
        r"\b(?:as|in|a|write) (?:an? )?(?:short )?(?:poems?|verses?|rhymes?)\b",
        Form(lines=True, least_sentences=4, most_sentences=8, sentence_words=9),
    ),
)

ALL: tuple[tuple[Rule, ...], ...] = (LISTS, CASES, SPELLINGS, UNITS, *((one,) for one in OTHERS))

"""Words that are left out together, and emoji to choose from."""

APOLOGIES = ("sorry", "apolog*", "regret*", "forgive")
AMERICAN = (
    *("color*", "favorit*", "flavor*", "neighbor*", "behavior*", "honor*", "labor", "humor", "rumor*"),
    *(
        "center*",
        "meter",
        "meters",
        "liter",
        "liters",
        "theater*",
        "fiber*",
        "gray*",
        "traveling",
        "traveled",
    ),
    *("organiz*", "realiz*", "recogniz*", "apologiz*", "emphasiz*", "analyz*", "jewelry", "mom", "program"),
)
BRITISH = (
    *("colour*", "favourit*", "flavour*", "neighbour*", "behaviour*", "honour*", "labour", "humour"),
    *("centre*", "metre", "metres", "litre", "litres", "theatre*", "fibre*", "grey*", "travelling"),
    *("organis*", "realis*", "recognis*", "apologis*", "emphasis*", "analys*", "jewellery", "programme"),
)
IMPERIAL = (
    *("mile", "miles", "feet", "foot", "inch", "inches", "pound", "pounds", "lb", "lbs", "ounce", "ounces"),
    *("oz", "gallon*", "yard", "yards", "fahrenheit", "cup", "cups", "mph"),
)
METRIC = ("metre*", "meter*", "kilomet*", "centimet*", "millimet*", "km", "cm", "mm", "kg", "kilogram*",
          "gram", "grams", "liter*", "litre*", "celsius")  # fmt: skip
FIRST_PERSON = ("i", "me", "my", "mine", "myself")
EMOJI = (
    *("\U0001f642", "\U0001f60a", "\U0001f600", "\U0001f44d", "\U0001f389", "\u2728", "\u2b50", "\U0001f31f"),
    *("\U0001f4a1", "\u2764\ufe0f", "\U0001f680", "\U0001f60e", "\U0001f914", "\U0001f64c", "\U0001f33f"),
    *("\U0001f31e", "\U0001f373", "\U0001f381", "\U0001f4da", "\U0001f3b5"),
)
EMOJI_CHARS = r"\U0001F000-\U0001FAFF\u2600-\u27BF\u2B00-\u2BFF\u200D\uFE0F"
CURSES = ("damn*", "hell", "crap*", "shit*", "fuck*", "bastard*", "bloody")

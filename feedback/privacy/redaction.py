"""Taking personal data out of texts before anything is written.

A redactor is a function from a text to a text. The built-in one knows patterns, `presidio` is Presidio's (see
`feedback.privacy.presidio`), and any importable function may be another: `--redact package.module:function`.
"""

import importlib
import re
from collections.abc import Callable
from typing import Any

from feedback.privacy.presidio import presidio

Redactor = Callable[[str], str]

_DIGITS = re.compile(r"\D")
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}")
_CARD = re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?![\w.]*\d)")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
_PHONE = re.compile(r"(?<![\w.])(?:\+|00)\d{1,3}[ ./-]?(?:\(\d{1,5}\)[ ./-]?)?\d(?:[ ./-]?\d){5,12}(?!\w)")
_IPV4 = re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.]*\d)")
_SSN = re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-])")


def redact_patterns(text: str) -> str:
    """Put the kind in brackets in place of personal data.

    Known are e-mail addresses, card numbers (which must pass Luhn's check), IBANs (ISO 7064's), US social
    security numbers, international phone numbers and IPv4 addresses.
    """
    text = _EMAIL.sub("[email]", text)
    text = _IBAN.sub(lambda found: "[iban]" if _is_iban(found[0]) else found[0], text)
    text = _CARD.sub(lambda found: "[card]" if _is_card(found[0]) else found[0], text)
    text = _SSN.sub("[ssn]", text)
    text = _IPV4.sub("[ip]", text)
    return _PHONE.sub("[phone]", text)


def redact_all(content: Any, redact: Redactor) -> Any:
    """Every text in messages but the roles and kinds."""
    if isinstance(content, str):
        return redact(content)
    if isinstance(content, list):
        return [redact_all(part, redact) for part in content]
    if isinstance(content, dict):
        kept = ("role", "type", "id", "tool_call_id")
        return {name: part if name in kept else redact_all(part, redact) for name, part in content.items()}
    return content


def load_redactor(name: str | None) -> Redactor | None:
    """The redactor of a setting: "none", "patterns", "presidio" or "package.module:function".

    Raises ValueError.
    """
    if name is None or name == "none":
        return None
    if name == "patterns":
        return redact_patterns
    if name == "presidio":
        return presidio()
    module, colon, function = name.partition(":")
    if not colon:
        raise ValueError(
            f"redactor {name!r} is neither 'patterns', 'presidio' nor like 'package.module:function'"
        )
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"redactor {name!r} cannot be imported: {error}") from error
    if not callable(found) or not isinstance(found("a test"), str):
        raise ValueError(f"redactor {name!r} is not a function from a text to a text")
    redactor: Redactor = found
    return redactor


def _is_card(text: str) -> bool:
    digits = [int(digit) for digit in _DIGITS.sub("", text)]
    doubled = [
        digit if i % 2 == 0 else digit * 2 - 9 * (digit > 4) for i, digit in enumerate(reversed(digits))
    ]
    return 13 <= len(digits) <= 19 and sum(doubled) % 10 == 0


def _is_iban(text: str) -> bool:
    compact = text.replace(" ", "")
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(letter, 36)) for letter in compact[4:] + compact[:4])) % 97 == 1

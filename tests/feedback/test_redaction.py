"""Personal data goes, everything that only looks like it stays."""

import importlib.util
from pathlib import Path

import pytest

from feedback.privacy.presidio import presidio
from feedback.privacy.redaction import load_redactor, redact_patterns


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Write to ada.l+x@example.co.uk, please.", "Write to [email], please."),
        ("My card is 4111 1111 1111 1111.", "My card is [card]."),
        ("5500-0000-0000-0004 it is", "[card] it is"),
        ("IBAN GB82 WEST 1234 5698 7654 32 is mine", "IBAN [iban] is mine"),
        ("DE89370400440532013000", "[iban]"),
        ("Call +49 (0)30 901820 or +1-202-555-0143 now", "Call [phone] or [phone] now"),
        ("from 192.168.1.254, I think", "from [ip], I think"),
        ("SSN 219-09-9999", "SSN [ssn]"),
        ("ada@example.com and bob@example.com", "[email] and [email]"),
    ],
)
def test_personal_data_goes(text: str, redacted: str) -> None:
    assert redact_patterns(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "Order 4111 1111 1111 1112 is late.",  # fails Luhn's check
        "It costs 1,234.56 or 12 345 678 in all.",
        "Python 3.11.7.2026 and version 1.2.3",
        "At 10:30 on 2026-11-20, order 123456789.",
        "GB00 WEST 1234 5698 7654 32",  # wrong check digits
        "user@host",
        "pi is 3.14159265358979323846",
        "Ünïcödé 🦉 stays",
        "",
    ],
)
def test_everything_else_stays(text: str) -> None:
    assert redact_patterns(text) == text


def test_redactors_are_found_by_name() -> None:
    assert load_redactor(None) is None
    assert load_redactor("none") is None
    assert load_redactor("patterns") is redact_patterns
    assert load_redactor("feedback.privacy.redaction:redact_patterns") is redact_patterns


def test_presidio_is_an_extra(tmp_path: Path) -> None:
    if importlib.util.find_spec("presidio_analyzer") is None:
        with pytest.raises(ValueError, match=r"hearken\[presidio\]"):
            load_redactor("presidio")
        return
    import spacy
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    spacy.blank("en").to_disk(tmp_path)  # its patterns need no more of a language model
    models = [{"lang_code": "en", "model_name": str(tmp_path)}]
    provider = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models})
    redact = presidio(AnalyzerEngine(nlp_engine=provider.create_engine(), supported_languages=["en"]))
    assert redact("Write to ada@example.com.") == "Write to <EMAIL_ADDRESS>."


@pytest.mark.parametrize(
    "name", ["emails", "no.such:thing", "feedback.privacy.redaction:nothing", "builtins:len"]
)
def test_a_redactor_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="redactor"):
        load_redactor(name)

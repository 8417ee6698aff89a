"""Presidio as the redactor: `--redact presidio`, after `pip install 'hearken[presidio]'` and, once,
`python -m spacy download en_core_web_lg` for the model with which it finds names of people and places.
"""

from collections.abc import Callable
from typing import Any

LANGUAGE = "en"


def presidio(analyzer: Any = None) -> Callable[[str], str]:
    """A function that puts the kind, like <PERSON>, in place of what Presidio finds.

    `analyzer`: an `AnalyzerEngine`, Presidio's own default when None. Raises ValueError without the library.
    """
    try:
        from presidio_analyzer import AnalyzerEngine
        from presidio_anonymizer import AnonymizerEngine
    except ImportError as error:
        raise ValueError(
            f"redactor 'presidio' needs Presidio: install hearken[presidio] ({error})"
        ) from error
    finder, anonymizer = analyzer or AnalyzerEngine(), AnonymizerEngine()

    def redact(text: str) -> str:
        found = finder.analyze(text, language=LANGUAGE)
        redacted: str = anonymizer.anonymize(text, found).text
        return redacted

    return redact

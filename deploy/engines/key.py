"""The key that engines ask for, where they ask for one.

Whoever reaches an engine can load any adapter on it, so `hearken up` gives its engines a key. It follows from
the service's secret: whoever may read the data folder can ask them (`hearken learn`, `hearken judge`), and
nobody else. It is in the environment of all processes, under vLLM's own name for it: a command line can be
read by everyone on the machine. vLLM asks for it below /v1, where it gives answers and loads adapters, and
not at /health, /metrics and /tokenize.
"""

import os
from pathlib import Path

from feedback.core.ids import Signer
from feedback.core.secret import load_secret

VARIABLE = "VLLM_API_KEY"


def take_engine_key(data: Path) -> None:
    """Put the key of a service's own engines into this process's environment, for it and its children, unless
    there is one. data: the service's data folder."""
    if not os.environ.get(VARIABLE):
        os.environ[VARIABLE] = Signer(load_secret(data / "secret")).sign("engine key", "")


def engine_headers() -> dict[str, str]:
    """The headers that every request to an engine needs. Raises ValueError for a key that fits no header."""
    key = os.environ.get(VARIABLE)
    if not key:
        return {}
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"{VARIABLE} must be printable ASCII characters, without line ends")
    return {"authorization": f"Bearer {key}"}

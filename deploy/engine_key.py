"""The key that engines ask for, where they ask for one.

Whoever reaches an engine can load any adapter on it, so `hearken up` draws a key for its engines. It is in
the environment of all processes, under vLLM's own name for it: a command line can be read by everyone on the
machine. vLLM asks for it below /v1, where it gives answers and loads adapters, and not at /health, /metrics
and /tokenize.
"""

import os
import secrets

VARIABLE = "VLLM_API_KEY"


def draw_engine_key() -> None:
    """Put a random key into this process's environment, for it and its children, unless there is one."""
    if not os.environ.get(VARIABLE):
        os.environ[VARIABLE] = secrets.token_hex(32)


def engine_headers() -> dict[str, str]:
    """The headers that every request to an engine needs. Raises ValueError for a key that fits no header."""
    key = os.environ.get(VARIABLE)
    if not key:
        return {}
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"{VARIABLE} must be printable ASCII characters, without line ends")
    return {"authorization": f"Bearer {key}"}

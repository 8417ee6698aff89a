"""`python -m bench._fake_engine PORT [ADAPTER ..]`: the tests' engine, as a process of its own.

Its long streams are written out once, so that it costs next to nothing however many want one, and between
two pieces of one it answers others, as engines do.
"""

import asyncio
import functools
import json
import sys
import threading
from typing import Any

from aiohttp import web

from tests.serve.fake_vllm import FakeVllm, Trouble, _chunks


class _Cheap(FakeVllm):
    async def _stream(
        self, request: web.Request, body: dict[str, Any], asked: str, details: dict[str, Any]
    ) -> web.StreamResponse:
        if asked != Trouble.LARGE:
            return await super()._stream(request, body, asked, details)
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for piece in _large(str(body["model"])):
            await response.write(piece)
            await asyncio.sleep(0)
        return response


@functools.cache
def _large(model: str) -> list[bytes]:
    body = {
        "model": model,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "logprobs": True,
    }
    events = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in _chunks(body, Trouble.LARGE)]
    return [*events, b"data: [DONE]\n\n"]


if __name__ == "__main__":
    fake = _Cheap()
    fake.port = int(sys.argv[1])
    fake.adapters = set(sys.argv[2:])
    fake.tells_cached = True
    fake.start()
    threading.Event().wait()

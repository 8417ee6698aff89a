"""A small server that speaks like vLLM 0.32's OpenAI server: same routes, same chunks, same errors.

What it answers follows from the request, so that tests can say what they expect:

- the tokens of an answer are its words; a token's id is 100 + its place, its logprob -0.1 * (place + 1),
  and the last one is an end-of-sequence token (id 2) without text;
- the answer names the model that was asked for ("I am policy-1-aaaaaaaa, seed 7.");
- the last message can ask for trouble, see `Trouble` below.
"""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

EOS = 2
PROMPT = [1, 17, 402]
EMOJI_TEXT = "Hi 👩🏽‍🚀 ok 🎉"
THOUGHT = "Let me see, ada@example.com asks."
OPEN, CLOSE = "<think>", "</think>"


class Trouble:
    """Last messages that make the engine misbehave."""

    DIE = "die in the middle"  # the connection breaks after three tokens
    FAIL = "fail in the middle"  # an error event after three tokens
    FAIL_FIRST = "fail at once"  # an error event before any token
    HOLD = "hold"  # two tokens, then nothing until `release` is set
    EMOJI = "emoji"  # EMOJI_TEXT, its bytes spread over many packets
    TOO_LONG = "too long"  # 400, context length
    REFUSED = "refused"  # 400, a validation error
    CRASH = "crash"  # 500
    GARBLE = "garble"  # 200, and no JSON
    STATUS = "status "  # and its number: an error about something of the request
    BREAK = "break at once"  # the connection breaks before any byte
    UNPAIRED = "unpaired"  # one logprob is missing
    LONG = "long"  # 600 tokens
    LARGE = "large"  # 600 tokens of 8 kB: more than what lies between a gateway and its reader
    THINK = "think"  # THOUGHT before the answer, as an engine with a reasoning parser tells it
    SAY = "say:"  # and what to answer
    SAY_AND_HOLD = "say and hold:"  # the same, and after two tokens nothing until `release` is set
    CALL = "call:"  # and a function's name and its arguments: a call of it
    CUT = "cut:"  # and what to answer before the limit of tokens is reached
    THINK_ON = "think on"  # nothing but THOUGHT, which never ends
    THINK_TWICE = "think twice"  # marks of a second, empty thought are left in the answer
    RAMBLE = "ramble"  # a number of words that follows from the seed
    THINK_NOTHING = "think nothing"  # the thought ends at once, and ends again in the answer


class FakeVllm:
    """One engine in a thread. `start` and `stop` as often as needed; the port stays (0: a free one)."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.adapters: set[str] = set()
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.release = threading.Event()
        self.aborted = threading.Event()
        self.holding = threading.Event()
        self.silent: set[str] = set()  # paths that are accepted and never answered
        self.busy = False  # whether it samples tokens for someone, as its metrics tell
        self.sampled = 0
        self.lora_requests = 0
        self.warm_ups = 0
        self.broken: set[str] = set()  # models that fail with every request
        self.key: str | None = None  # that it asks for at /v1
        self.immune = False  # whether every trouble is answered like any other message
        self.has_tokens_for_us = threading.Event()  # unless it is set, the gateway's own questions wait
        self.has_tokens_for_us.set()
        self.tells_cached = False  # --enable-prompt-tokens-details
        self._cached: set[str] = set()  # whole prompts, each with its policy and its salt
        self.sick = False  # whether everything that wants a token fails, and health is well
        self.port = port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self) -> "FakeVllm":
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def stop(self) -> None:
        """Die like a killed process: connections break."""
        if self._thread is None:
            return
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._thread = None

    def _serve(self, started: threading.Event) -> None:
        asyncio.run(self._main(started))

    async def _main(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        app = web.Application(middlewares=[self._maybe_silent])
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/completions", self._chat)
        app.router.add_post("/detokenize", self._detokenize)
        app.router.add_post("/tokenize", self._tokenize)
        for action in ("load", "unload"):
            app.router.add_post(f"/v1/{action}_lora_adapter", self._lora)
        runner = web.AppRunner(app, shutdown_timeout=0.01, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, self.host, self.port, reuse_address=True).start()
        self.port = runner.addresses[0][1]
        started.set()
        await self._stop.wait()
        for connection in runner.server.connections if runner.server else []:
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    @web.middleware
    async def _maybe_silent(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        while request.path in self.silent:  # noqa: ASYNC110 (a test's thread ends it)
            await asyncio.sleep(0.005)
        sent = request.headers.get("authorization")
        if self.key is not None and request.path.startswith("/v1") and sent != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return await handler(request)

    async def _metrics(self, _: web.Request) -> web.Response:
        self.sampled += self.busy
        return web.Response(text=f'vllm:generation_tokens_total{{engine="0"}} {self.sampled}.0\n')

    async def _lora(self, _: web.Request) -> web.Response:
        self.lora_requests += 1
        return web.Response()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _: web.Request) -> web.Response:
        names = ["base", *sorted(self.adapters)]
        return web.json_response(
            {
                "object": "list",
                "data": [{"id": name, "object": "model", "owned_by": "vllm"} for name in names],
            }
        )

    async def _detokenize(self, request: web.Request) -> web.Response:
        return web.json_response({"prompt": text_of((await request.json())["tokens"])})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        said = body.get("prompt") or " ".join(str(m.get("content")) for m in body["messages"])
        tokens = [len(word) for word in said.split()]
        strings = said.split() if body.get("return_token_strs") else None
        return web.json_response(
            {"count": len(tokens), "max_model_len": 1024, "tokens": tokens, "token_strs": strings}
        )

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body.get("messages") == [{"role": "user", "content": "Hello"}] and body.get("max_tokens") == 1:
            self.warm_ups += 1
            assert body["logprobs"]
            while not self.has_tokens_for_us.is_set():  # noqa: ASYNC110 (a test's thread sets it)
                await asyncio.sleep(0.005)
        else:
            self.requests.append(body)
            self.headers.append(dict(request.headers))
        model = body["model"]
        if model != "base" and model not in self.adapters:
            return _error(404, f"The model `{model}` does not exist.", "NotFoundError", "model")
        if model in self.broken or self.sick:
            return _error(500, "CUDA error", "InternalServerError", None)
        text = "prompt" in body
        details = self._details(body)
        asked = "hi" if self.immune or text else str(body["messages"][-1].get("content"))
        if asked == Trouble.TOO_LONG:
            return _error(
                400,
                "This model's maximum context length is 1024 tokens. However, your prompt contains at least "
                "1025 input tokens, which exceeds this limit even without any output tokens. Please reduce "
                "the length of the input prompt.",
                "BadRequestError",
                "input_tokens",
            )
        if asked == Trouble.REFUSED:
            return _error(
                400,
                "1 validation error:\n  {'type': 'less_than_equal', 'loc': 'body.top_p', 'msg': "
                "'Input should be less than or equal to 1', 'input': 3}",
                "Bad Request",
                "body.top_p",
            )
        if asked == Trouble.BREAK:
            assert request.transport is not None
            request.transport.abort()
        if asked == Trouble.GARBLE:
            return web.Response(text='{"choices": [', content_type="application/json")
        if asked.startswith(Trouble.STATUS):
            return _error(int(asked.removeprefix(Trouble.STATUS)), "The image is odd.", "Odd", "messages")
        if asked == Trouble.CRASH:
            return _error(500, "EngineCore encountered an issue", "InternalServerError", None)
        if body.get("stream"):
            return await self._stream(request, body, asked, details)
        if asked == Trouble.HOLD:
            await self._hold()
        if text:
            whole = _text_head(body) | {"choices": _text_choices(body), "usage": _text_usage(body)}
        else:
            whole = _whole(body, asked)
        whole["usage"] |= details
        return web.json_response(whole)

    def _details(self, body: dict[str, Any]) -> dict[str, Any]:
        """What usage tells of the prefix cache, which from now on has this prompt."""
        prompt = json.dumps([body["model"], body.get("cache_salt"), body.get("messages") or body["prompt"]])
        cached = len(PROMPT) if prompt in self._cached else 0
        self._cached.add(prompt)
        details = {"cached_tokens": cached, "created_cache_tokens": None, "multimodal_tokens": None}
        return {"prompt_tokens_details": details} if self.tells_cached else {}

    async def _hold(self) -> None:
        self.holding.set()
        try:
            while not self.release.is_set():  # noqa: ASYNC110 (a test's thread sets it)
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.aborted.set()
            raise

    async def _stream(
        self, request: web.Request, body: dict[str, Any], asked: str, details: dict[str, Any]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for i, chunk in enumerate(_text_chunks(body) if "prompt" in body else _chunks(body, asked)):
            if "usage" in chunk:
                chunk["usage"] |= details
            if asked == Trouble.FAIL_FIRST or (asked == Trouble.FAIL and i == 4):
                chunk = {
                    "error": {
                        "message": "Internal server error",
                        "type": "InternalServerError",
                        "param": None,
                        "code": 500,
                    }
                }
            if asked == Trouble.DIE and i == 4:
                assert request.transport is not None
                request.transport.abort()
                return response
            if (asked == Trouble.HOLD or asked.startswith(Trouble.SAY_AND_HOLD)) and i == 3:
                await self._hold()
            await self._write(response, chunk, split=asked == Trouble.EMOJI)
            if "error" in chunk:
                break
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _write(self, response: web.StreamResponse, chunk: dict[str, Any], split: bool) -> None:
        data = f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()
        pieces = [data[i : i + 7] for i in range(0, len(data), 7)] if split else [data]
        for piece in pieces:
            await response.write(piece)
            if split:
                await asyncio.sleep(0)


def _error(status: int, message: str, kind: str, param: str | None) -> web.Response:
    error = {"message": message, "type": kind, "param": param, "code": status}
    return web.json_response({"error": error}, status=status)


def words_of(body: dict[str, Any], asked: str) -> list[str]:
    """The answer's tokens as text, without the last one, which has none."""
    if asked == Trouble.EMOJI:
        # Bytes of a character that is not complete yet come as empty text, then the character at once.
        return [part for char in EMOJI_TEXT for part in ([""] * (len(char.encode()) - 1) + [char])]
    if asked == Trouble.LONG:
        return ["on"] * 599
    if asked == Trouble.LARGE:
        return ["on" * 4096] * 599
    if asked.startswith(Trouble.CALL):
        return _words(asked.removeprefix(Trouble.CALL).partition(" ")[2])
    if asked == Trouble.RAMBLE:
        return _words("on " * (body["seed"] % 40) + "and on")
    for say in (Trouble.SAY, Trouble.SAY_AND_HOLD, Trouble.CUT):
        if asked.startswith(say):
            return _words(asked.removeprefix(say))
    text = f"I am {body['model']}, seed {body.get('seed')}."
    words, thought = _words(text), [OPEN, *_words(THOUGHT)]
    return {
        Trouble.THINK: [*thought, CLOSE, *words],
        Trouble.THINK_ON: thought,
        Trouble.THINK_TWICE: [*thought, CLOSE, words[0], OPEN, CLOSE, *words[1:]],
        Trouble.THINK_NOTHING: [CLOSE, words[0], CLOSE, *words[1:]],
    }.get(str(asked), words)  # content may come in parts


def _words(text: str) -> list[str]:
    return [word if i == 0 else " " + word for i, word in enumerate(text.split(" "))]


def _parts(words: list[str]) -> list[dict[str, str]]:
    """What each word is in an answer's parts: of the thought, of the answer, or one of the marks between."""
    parts: list[dict[str, str]] = []
    kind = "reasoning" if words[0] in (OPEN, CLOSE) else "content"
    for word in words:
        is_mark = kind == "reasoning" and word in (OPEN, CLOSE)
        parts.append({} if is_mark else {kind: word})
        kind = "content" if word == CLOSE else kind
    return parts


def _part(words: list[str], kind: str) -> str | None:
    return "".join(part.get(kind, "") for part in _parts(words)) or None


def _call(asked: str, words: list[str]) -> list[dict[str, Any]]:
    """The parts of a call, a word of its arguments each."""
    name = asked.removeprefix(Trouble.CALL).partition(" ")[0]
    head = {"index": 0, "id": "chatcmpl-tool-1", "type": "function"}
    calls = [{"index": 0, "function": {"arguments": word}} for word in words]
    calls[0] = head | {"function": {"name": name, "arguments": words[0]}}
    return [{"tool_calls": [call]} for call in calls]


def _finish(asked: str) -> str:
    if asked.startswith(Trouble.CALL):
        return "tool_calls"
    return "length" if asked.startswith(Trouble.CUT) else "stop"


def _logprob(place: int, text: str) -> dict[str, Any]:
    return {
        "token": text,
        "logprob": round(-0.1 * (place + 1), 6),
        "bytes": list(text.encode()),
        "top_logprobs": [],
    }


def _sampled(body: dict[str, Any], asked: str) -> Iterator[tuple[int, str, dict[str, Any], bool]]:
    """(token id, text, logprob, whether it is the last) of each token."""
    words = words_of(body, asked)
    for place, word in enumerate(words):
        yield 100 + place, word, _logprob(place, word), False
    yield EOS, "", _logprob(len(words), "</s>"), True


def _chunks(body: dict[str, Any], asked: str) -> Iterator[dict[str, Any]]:
    head = {
        "id": "chatcmpl-engine",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": body["model"],
    }
    n = int(body.get("n") or 1)
    for index in range(n):
        choice = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None}
        first = head | {"choices": [choice | {"finish_reason": None}]}
        if body.get("return_token_ids"):
            first["prompt_token_ids"] = PROMPT
        yield first
    tokens = 0
    words = words_of(body, asked)
    parts = _call(asked, words) if asked.startswith(Trouble.CALL) else _parts(words)
    deltas = [*parts, {"content": ""}]
    for token_id, _, logprob, last in _sampled(body, asked):
        for index in range(n):
            choice = {
                "index": index,
                "delta": deltas[tokens // n],
                "logprobs": {"content": [logprob]} if body.get("logprobs") else None,
                "finish_reason": _finish(asked) if last else None,
            }
            if asked == Trouble.UNPAIRED and tokens == 0:
                choice["logprobs"] = {"content": []}
            if last:
                choice["stop_reason"] = None
            if body.get("return_token_ids"):
                choice["token_ids"] = [token_id]
            tokens += 1
            yield head | {"choices": [choice]}
    if (body.get("stream_options") or {}).get("include_usage"):
        yield head | {"choices": [], "usage": _usage(tokens, asked)}


def _whole(body: dict[str, Any], asked: str) -> dict[str, Any]:
    sampled = list(_sampled(body, asked))
    words = words_of(body, asked)
    calls = []
    if asked.startswith(Trouble.CALL):
        name, _, arguments = asked.removeprefix(Trouble.CALL).partition(" ")
        function = {"name": name, "arguments": arguments}
        calls, words = [{"id": "chatcmpl-tool-1", "type": "function", "function": function}], [""]
    choices: list[dict[str, Any]] = []
    for index in range(int(body.get("n") or 1)):
        choice = {
            "index": index,
            "message": {
                "role": "assistant",
                "content": _part(words, "content"),
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                "reasoning": _part(words, "reasoning"),
                **({"tool_calls": calls} if calls else {}),
            },
            "logprobs": {"content": [p for _, _, p, _ in sampled]} if body.get("logprobs") else None,
            "finish_reason": _finish(asked),
            "stop_reason": None,
            "token_ids": [t for t, _, _, _ in sampled] if body.get("return_token_ids") else None,
            "routed_experts": None,
        }
        choices.append(choice)
    return {
        "id": "chatcmpl-engine",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body["model"],
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": "vllm-0.32.0-fake",
        "usage": _usage(len(sampled) * len(choices), asked),
        "prompt_logprobs": None,
        "prompt_token_ids": PROMPT if body.get("return_token_ids") else None,
        "prompt_text": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def _usage(tokens: int, asked: str = "") -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": len(PROMPT),
        "total_tokens": len(PROMPT) + tokens,
        "completion_tokens": tokens,
    }
    if str(asked).startswith("think"):
        usage["completion_tokens_details"] = {"reasoning_tokens": len(_words(THOUGHT))}
    return usage


def prompts_of(body: dict[str, Any]) -> list[list[int]]:
    """The prompts as token ids: a word's id is its length."""
    prompt = body["prompt"]
    several = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
    return [[len(word) for word in p.split()] if isinstance(p, str) else p for p in several]


def text_of(token_ids: list[int]) -> str:
    """What `/detokenize` answers."""
    return " ".join("x" * min(length, 99) for length in token_ids)


def _text_head(body: dict[str, Any]) -> dict[str, Any]:
    return {"id": "cmpl-engine", "object": "text_completion", "created": 1, "model": body["model"]}


def _text_choices(body: dict[str, Any]) -> list[dict[str, Any]]:
    """As vLLM: an echo's logprobs begin with the prompt's, but its text does not when ids are asked for."""
    choices: list[dict[str, Any]] = []
    for prompt in prompts_of(body):
        for _ in range(int(body.get("n") or 1)):
            sampled = [(i, word, p["logprob"]) for i, word, p, _ in _sampled(body, "")]
            if body.get("max_tokens") == 0:
                sampled = []
            shown = [(i, "p", None) for i in prompt] if body.get("echo") else []
            numbers = [number for _, _, number in [*shown, *sampled]]
            choices.append(
                {
                    "index": len(choices),
                    "text": "".join(word for _, word, _ in sampled),
                    "logprobs": {
                        "tokens": [word for _, word, _ in [*shown, *sampled]],
                        "token_logprobs": numbers,
                        "top_logprobs": [None] * len(numbers),
                        "text_offset": [0] * len(numbers),
                    },
                    "finish_reason": "stop",
                    "stop_reason": None,
                    "prompt_logprobs": None,
                    "prompt_token_ids": prompt,
                    "token_ids": [i for i, _, _ in sampled] or [100],
                }
            )
    return choices


def _text_usage(body: dict[str, Any]) -> dict[str, Any]:
    prompt = sum(map(len, prompts_of(body)))
    tokens = sum(len(choice["token_ids"]) for choice in _text_choices(body))
    return {"prompt_tokens": prompt, "total_tokens": prompt + tokens, "completion_tokens": tokens}


def _text_chunks(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each choice in two pieces, the first with the prompt."""
    for choice in _text_choices(body):
        known = len(choice["prompt_token_ids"]) + 1 if body.get("echo") else 1
        names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        for part, ids, logs in ((0, slice(0, 1), slice(0, known)), (1, slice(1, None), slice(known, None))):
            words = choice["logprobs"]["tokens"][logs]
            words = words[-1:] if part == 0 else words
            piece = {
                "index": choice["index"],
                "text": "".join(words),
                "logprobs": {name: choice["logprobs"][name][logs] for name in names},
                "finish_reason": choice["finish_reason"] if part else None,
                "stop_reason": None,
                "token_ids": choice["token_ids"][ids],
            }
            if part == 0:
                piece["prompt_token_ids"] = choice["prompt_token_ids"]
            yield _text_head(body) | {"choices": [piece]}
    if (body.get("stream_options") or {}).get("include_usage"):
        yield _text_head(body) | {"choices": [], "usage": _text_usage(body)}


@contextmanager
def fake_engine(host: str = "127.0.0.1", port: int = 0) -> Iterator[FakeVllm]:
    """A fake engine while the block lasts."""
    server = FakeVllm(host, port).start()
    yield server
    server.release.set()
    server.stop()

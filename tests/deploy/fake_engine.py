"""A small server with vLLM's shapes: enough of one for the controller, in a thread.

Its "logprobs" are a function of the adapter's weight file and the tokens, which stands for a forward pass:
only an engine that loaded the right file gives the right numbers. `trainer_logprob` is the trainer's side.
"""

import hashlib
import json
import math
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from deploy.engines.parity import log_odds


def trainer_logprob(weights: bytes, context: list[int], token: int) -> float:
    """The logprob (nats) of `token` after `context` under an adapter."""
    digest = hashlib.sha256(weights + repr([*context, token]).encode()).digest()
    return -int.from_bytes(digest[:4], "big") / 2**30


class FakeEngine:
    """`skew_nats` is added to every logprob; `noise_nats`: standard deviation of what rounding adds to the
    log-odds. With `fails`, probes are answered with 500. `answers`: what is answered instead on a path, with
    200. With `hangs` nothing is answered at all, until `wake`.

    `loads` and `unloads` are what was asked of it, in order, and `paths` where it found what it loaded. After
    `lives_for` completions it ends, as a killed process does, and `ended` is set.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.loaded: dict[str, bytes] = {}
        self.loads: list[str] = []
        self.paths: list[Path] = []
        self.unloads: list[str] = []
        self.probes: list[str] = []
        self.skew_nats = self.noise_nats = 0.0
        self.fails = self.hangs = False
        self.answers: dict[str, bytes] = {}
        self.reads_instead: bytes | None = None  # of an adapter's file: swapped after it was hashed
        self._woken = threading.Event()
        self.lives_for: int | None = None
        self.ended = threading.Event()
        self._server = self._serve(port)
        self.port = self._server.server_port
        self.url = f"http://{host}:{self.port}"

    def _serve(self, port: int) -> ThreadingHTTPServer:
        engine = self

        class Handler(_Handler):
            fake = engine

        server = ThreadingHTTPServer((self.host, port), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    def wake(self) -> None:
        """Whoever waits for an answer gets one, and so do those who come later."""
        self.hangs = False
        self._woken.set()

    def answers_otherwise(self, path: str) -> bytes | None:
        """What is answered instead, after waiting for as long as it hangs."""
        if self.hangs:
            self._woken.clear()
            self._woken.wait(60)
        return self.answers.get(path)

    def stop(self) -> None:
        """Nothing answers on the port any more."""
        self._woken.set()
        self._server.shutdown()
        self._server.server_close()

    def start(self) -> None:
        """A new process on the same port: it knows the base model only."""
        self.loaded = {}
        self.ended.clear()
        self._server = self._serve(self.port)

    def prompt_logprobs(self, model: str, tokens: list[int]) -> list[dict[str, Any] | None]:
        weights = self.loaded.get(model, b"")
        rows: list[dict[str, Any] | None] = [None]
        for i in range(1, len(tokens)):
            logprob = trainer_logprob(weights, tokens[:i], tokens[i]) + self.skew_nats
            if self.noise_nats:
                noise = random.Random(repr((weights, tokens[: i + 1]))).gauss(0, self.noise_nats)
                logprob = -math.log1p(math.exp(-log_odds(logprob) - noise))
            rows.append({str(tokens[i]): {"logprob": logprob, "rank": 1, "decoded_token": "x"}})
        return rows


class _Handler(BaseHTTPRequestHandler):
    fake: FakeEngine

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        if (instead := self.fake.answers_otherwise(self.path)) is not None:
            self._answer(200, instead)
        elif self.path == "/health":
            self._answer(200, None)
        elif self.path == "/v1/models":
            names = ["base", *self.fake.loaded]
            self._answer(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in names]})
        else:
            self._answer(404, _error("no such path", 404))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if (instead := self.fake.answers_otherwise(self.path)) is not None:
            self._answer(200, instead)
            return
        handlers = {
            "/v1/load_lora_adapter": self._load,
            "/v1/unload_lora_adapter": self._unload,
            "/v1/completions": self._complete,
            "/tokenize": self._tokenize,
        }
        handlers[self.path](body)

    def _load(self, body: dict[str, Any]) -> None:
        name, folder = body["lora_name"], Path(body["lora_path"])
        if name in self.fake.loaded:
            self._answer(400, _error(f"The lora adapter '{name}' has already been loaded.", 400))
        elif not (folder / "adapter_model.safetensors").is_file():
            self._answer(404, _error(f"No adapter found for {folder}", 404))
        else:
            weights = (folder / "adapter_model.safetensors").read_bytes()
            self.fake.loaded[name] = self.fake.reads_instead or weights
            self.fake.loads.append(name)
            self.fake.paths.append(folder)
            self._answer(200, f"Success: LoRA adapter '{name}' added successfully.")

    def _unload(self, body: dict[str, Any]) -> None:
        name = body["lora_name"]
        if self.fake.loaded.pop(name, None) is None:
            self._answer(404, _error(f"The lora adapter '{name}' cannot be found.", 404))
        else:
            self.fake.unloads.append(name)
            self._answer(200, f"Success: LoRA adapter '{name}' removed successfully.")

    def _tokenize(self, body: dict[str, Any]) -> None:
        self._answer(200, {"tokens": [len(message["content"]) for message in body["messages"]]})

    def _complete(self, body: dict[str, Any]) -> None:
        model = body["model"]
        if self.fake.lives_for is not None and len(self.fake.probes) >= self.fake.lives_for:
            self.fake.lives_for = None
            self.fake.stop()
            self.fake.ended.set()
        if self.fake.ended.is_set():
            self.close_connection = True
            return
        if self.fake.fails:
            self._answer(500, _error("EngineCore encountered an issue", 500))
            return
        if model != "base" and model not in self.fake.loaded:
            self._answer(404, _error(f"The model `{model}` does not exist.", 404))
            return
        self.fake.probes.append(model)
        choices = [
            {
                "index": index,
                "text": "x",
                "finish_reason": "length",
                "token_ids": [7, 8],
                "logprobs": {"token_logprobs": [-0.5, -0.5]},
                "prompt_logprobs": self.fake.prompt_logprobs(model, prompt),
            }
            for index, prompt in enumerate(body["prompt"])
        ]
        self._answer(200, {"object": "text_completion", "model": model, "choices": choices})

    def _answer(self, code: int, body: object) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _error(message: str, code: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": "Error", "param": None, "code": code}}

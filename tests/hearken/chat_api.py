"""A server with the OpenAI API, for tests of what asks a model."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

Api = TypeVar("Api", bound="ChatApi")


class ChatApi(ThreadingHTTPServer):
    """Answers chats with what `answered` makes of them, on a port of its own."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def answered(self, body: dict[str, Any], authorization: str | None) -> tuple[int, dict[str, Any]]:
        """Status and body of the answer to a request."""
        raise NotImplementedError


class _Handler(BaseHTTPRequestHandler):
    server: ChatApi

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, said = self.server.answered(body, self.headers.get("Authorization"))
        answer = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(api: Api) -> Iterator[Api]:
    """The server, answering for the length of the block."""
    thread = threading.Thread(target=api.serve_forever)
    thread.start()
    try:
        yield api
    finally:
        api.shutdown()
        thread.join()
        api.server_close()

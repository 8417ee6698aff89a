"""The gateway's own HTTP client, against servers that send exactly the bytes a test wants."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.engines.connections import Pool
from serve.engines.wire import Connection, Place, WireError

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
SIZED = b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\ngone"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers every request on every connection with `handler`, and counts connections."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.connections = 0
        self.requests: list[bytes] = []
        self.lost = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = [
                    int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")
                ]
                self.requests.append(head + await reader.readexactly(length[0] if length else 0))
                await self.handler(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.lost.set()
        finally:
            writer.close()


@asynccontextmanager
async def serving(handler: Handler, silence_seconds: float = 20.0) -> AsyncIterator[tuple[Server, Pool, str]]:
    server = Server(handler)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    pool = Pool(connect_seconds=5.0, silence_seconds=silence_seconds, idle_seconds=4.0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield server, pool, f"http://127.0.0.1:{port}"
    finally:
        pool.close()
        listening.close()


def sends(*pieces: bytes) -> Handler:
    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return handler


async def exchange(pool: Pool, url: str) -> tuple[int, bytes, Connection]:
    connection = await pool.ask(url, b"POST", b"/v1/x", b"{}")
    status, body = await connection.begun(), await connection.read_all()
    pool.give_back(url, connection)
    return status, body, connection


@pytest.mark.parametrize("cut", [1, 3, 7, 1000])
def test_an_answer_is_the_same_however_its_bytes_are_cut(cut: int) -> None:
    async def run() -> None:
        pieces = [CHUNKED[i : i + cut] for i in range(0, len(CHUNKED), cut)]
        async with serving(sends(*pieces)) as (server, pool, url):
            status, body, _ = await exchange(pool, url + "/prefix/")
            assert (status, body) == (200, b"hello world")
            assert server.requests[0].startswith(b"POST /prefix/v1/x HTTP/1.1\r\nhost: 127.0.0.1:")
            assert server.requests[0].endswith(b"content-length: 2\r\n\r\n{}")

    asyncio.run(run())


def test_connections_are_used_again_until_their_server_closes_them() -> None:
    async def run() -> None:
        async with serving(sends(SIZED)) as (server, pool, url):
            for _ in range(3):
                assert (await exchange(pool, url))[:2] == (404, b"gone")
            assert server.connections == 1
            server.handler = sends(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            assert (await exchange(pool, url))[:2] == (200, b"")
            await asyncio.wait_for(server.lost.wait(), 10)
            assert (await exchange(pool, url))[:2] == (200, b"")
            assert server.connections == 2

    asyncio.run(run())


def test_a_connection_that_its_server_closes_just_then_costs_nothing() -> None:
    """The server reads the second request of a connection, and closes instead of answering it."""
    answered: set[asyncio.StreamWriter] = set()

    async def once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if writer in answered:
            writer.close()
        else:
            answered.add(writer)
            writer.write(SIZED)

    async def run() -> None:
        async with serving(once) as (server, pool, url):
            for _ in range(3):
                assert (await exchange(pool, url))[:2] == (404, b"gone")
            assert server.connections == 3
            assert len(server.requests) == 5

    asyncio.run(run())


def test_a_new_connection_that_is_closed_unheard_is_an_error() -> None:
    async def never(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def run() -> None:
        async with serving(never) as (server, pool, url):
            with pytest.raises(WireError, match="the connection was"):
                await exchange(pool, url)
            assert len(server.requests) == 1

    asyncio.run(run())


def test_a_stream_whose_end_comes_late_still_gives_its_connection_back() -> None:
    async def run() -> None:
        head, body, end = CHUNKED[:47], CHUNKED[47:-5], CHUNKED[-5:]
        finish = asyncio.Event()

        async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(head + body)
            await finish.wait()
            writer.write(end)

        async with serving(handler) as (server, pool, url):
            connection = await pool.ask(url, b"GET", b"/")
            assert await connection.begun() == 200
            assert await connection.read() == b"hello world"
            pool.give_back(url, connection)
            finish.set()
            assert await connection.read() == b""
            assert await pool.ask(url, b"GET", b"/") is connection
            assert server.connections == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not an HTTP answer"),
        (CHUNKED[:60], "closed"),
        (b"", "closed"),
    ],
)
def test_answers_that_are_none(sent: bytes, words: str) -> None:
    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        writer.close()

    async def run() -> None:
        async with serving(handler) as (_, pool, url):
            with pytest.raises(WireError, match=words):
                await exchange(pool, url)

    asyncio.run(run())


TWO = SIZED + SIZED


def test_an_answer_that_nobody_asked_for_is_nobodys() -> None:
    """Neither in the same piece nor in a later one does it become a part of this answer or the next one."""

    async def run() -> None:
        async with serving(sends(TWO)) as (server, pool, url):
            for _ in range(2):
                status, body, connection = await exchange(pool, url)
                assert (status, body) == (404, b"gone")
                assert not connection.is_reusable
            assert server.connections == 2

        more = asyncio.Event()

        async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(SIZED)
            if not more.is_set():
                await more.wait()
                writer.write(CHUNKED)

        async with serving(handler) as (server, pool, url):
            _, _, first = await exchange(pool, url)
            assert first.is_reusable
            more.set()
            await server.lost.wait()
            status, body, _ = await exchange(pool, url)
            assert (status, body, server.connections) == (404, b"gone", 2)

    asyncio.run(run())


def test_what_is_said_before_the_answer_is_passed_over() -> None:
    async def run() -> None:
        early = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        for pieces in ((early + CHUNKED,), (early, CHUNKED)):
            async with serving(sends(*pieces)) as (_, pool, url):
                status, body, connection = await exchange(pool, url)
                assert (status, body, connection.is_reusable) == (200, b"hello world", True)

    asyncio.run(run())


ENDLESS = {
    "headers": (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
    "one header": (b"HTTP/1.1 200 OK\r\nx: ", b"y" * 100),
    "early hints": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "trailers": (CHUNKED[:-2], b"x: y\r\n"),
    "an extension of a chunk": (CHUNKED[: CHUNKED.index(b"6\r\n") + 1], b";x=y"),
}


@pytest.mark.parametrize(("begin", "goes_on"), ENDLESS.values(), ids=ENDLESS)
def test_what_goes_on_without_saying_anything_is_no_answer(begin: bytes, goes_on: bytes) -> None:
    sent = 0

    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(begin)
        while True:
            writer.write(goes_on * 100)
            await writer.drain()
            sent += 100 * len(goes_on)

    async def run() -> None:
        async with serving(handler) as (server, pool, url):
            with pytest.raises(WireError, match=r"say nothing|not an HTTP answer"):
                await exchange(pool, url)
            await server.lost.wait()
            assert sent < 2**24

    asyncio.run(run())


class Link(asyncio.Transport):
    """Takes what is sent; a test sends what is received."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def write(self, data: object) -> None:
        """Nobody is there."""

    def pause_reading(self) -> None:
        """All is held by the test."""

    def resume_reading(self) -> None:
        """See `pause_reading`."""

    def abort(self) -> None:
        self.aborted = True


VALID = (CHUNKED, SIZED, b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n")
garbage = st.binary(max_size=40)


@st.composite
def hostile(draw: st.DrawFn) -> list[bytes]:
    """Answers, some bytes of which are others, missing or too many, in pieces."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(VALID) | garbage, min_size=1, max_size=4))))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 5))] = draw(
            st.binary(max_size=3) | st.sampled_from([b"\r\n", b"0"])
        )
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    ends = [*cuts, len(data)]
    return [bytes(data[a:b]) for a, b in zip([0, *cuts], ends, strict=True) if a < b]


@settings(max_examples=300, deadline=None)
@given(pieces=hostile())
def test_whatever_a_hostile_engine_sends_is_an_answer_or_an_error(pieces: list[bytes]) -> None:
    async def run() -> None:
        connection, link = Connection(60.0), Link()
        connection.connection_made(link)
        connection.ask(Place.of("http://engine:1"), b"GET", b"/", b"")
        for piece in pieces:
            if not link.aborted:
                connection.data_received(piece)
        connection.connection_lost(None)
        try:
            status, body = await connection.begun(), await connection.read_all()
        except WireError:
            assert not connection.is_reusable
            return
        assert 200 <= status <= 999
        assert body in b"".join(pieces) or b"chunked" in b"".join(pieces)
        assert not connection.is_reusable, "it was lost"

    asyncio.run(run())


def test_a_silent_server_is_given_up_and_a_slow_one_is_not() -> None:
    async def run() -> None:
        async def slow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for i in range(0, len(CHUNKED), 2):
                writer.write(CHUNKED[i : i + 2])
                await asyncio.sleep(0.1)

        async with serving(slow, silence_seconds=3.0) as (_, pool, url):
            assert (await exchange(pool, url))[1] == b"hello world"  # takes longer than 3 s in all
        async with serving(sends(CHUNKED[:60]), silence_seconds=0.3) as (_, pool, url):
            with pytest.raises(WireError, match=r"nothing came for 0\.3 s"):
                await exchange(pool, url)

    asyncio.run(run())


def test_nobody_listens() -> None:
    async def run() -> None:
        async with serving(sends()) as (_, pool, url):
            pass
        with pytest.raises(WireError, match="cannot connect"):
            await pool.ask(url, b"GET", b"/")

    asyncio.run(run())


def test_what_nobody_reads_is_held_at_the_engine_not_in_memory() -> None:
    async def run() -> None:
        piece, pieces = b"x" * 65536, 400  # 25 MiB
        written = 0

        async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(piece) * pieces))
            for _ in range(pieces):
                writer.write(piece)
                await writer.drain()
                written += len(piece)

        async with serving(handler) as (_, pool, url):
            connection = await pool.ask(url, b"GET", b"/")
            assert await connection.begun() == 200
            before = -1
            while before != written:  # until the sender is stuck
                before = written
                await asyncio.sleep(0.2)
            assert written < 20 * 1024 * 1024, "everything was taken in although nobody read it"
            assert len(await connection.read_all()) == len(piece) * pieces

    asyncio.run(run())


def test_leaving_closes_the_connection() -> None:
    async def run() -> None:
        async with serving(sends(CHUNKED[:60])) as (server, pool, url):
            connection = await pool.ask(url, b"GET", b"/")
            assert await connection.begun() == 200
            pool.drop(connection)
            await asyncio.wait_for(server.lost.wait(), 10)
            with pytest.raises(WireError):
                await connection.read_all()

    asyncio.run(run())

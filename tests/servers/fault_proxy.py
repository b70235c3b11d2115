"""A proxy that does to requests what networks and busy stores do, and counts them.

It stands between a client and a store. A plan says of each request what befalls it: it goes through, is answered with an
error, is never answered, or is done and its answer lost. Every request is noted with when it began and ended, so that the
longest chain of requests that waited for one another can be told too: see `depth`.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import itertools
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal["reset", "lost", "cut", "internal", "unavailable", "slow-down", "too-many", "conflict"]
KINDS: tuple[Kind, ...] = ("reset", "lost", "cut", "internal", "unavailable", "slow-down", "too-many", "conflict")
"""Connection closed before anything is done; closed after it was done; closed in the middle of the answer's body; answered
with 500, 503, 503 SlowDown, 429, or, where the request is a conditional write, 409."""

_ANSWERS = {
    "internal": (500, "InternalError"),
    "unavailable": (503, "ServiceUnavailable"),
    "slow-down": (503, "SlowDown"),
    "too-many": (429, "TooManyRequests"),
    "conflict": (409, "ConditionalRequestConflict"),
}
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection"}
_CONDITIONS = ("if-match", "if-none-match", "x-goog-if-generation-match")

Plan = Callable[["Passing"], Kind | None]


@dataclass
class Passing:
    """One request on its way through.

    Attributes
    ----------
    verb, path : str
        As sent; the path has the query.
    conditional : bool
        Whether it is a conditional write.
    began, ended : float
        When, by the clock of this machine.
    fault : str or None
        What befell it.
    status : int
        What the store answered, 0 where it was not asked.
    received, sent : int
        Bytes of the bodies, of the request and of the answer.
    """

    verb: str
    path: str
    conditional: bool
    began: float
    ended: float = 0.0
    fault: Kind | None = None
    status: int = 0
    received: int = 0
    sent: int = 0

    def __str__(self) -> str:
        return f"{self.verb} {self.path}" + (f" ({self.fault})" if self.fault else "")


@dataclass
class Proxy:
    """A running proxy: its address, what it does, and what passed."""

    url: str
    backend: str
    plan: Plan | None = None
    latency: float = 0.0
    """Seconds that every request takes at least, so that those made together overlap."""
    passed: list[Passing] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def faults(self) -> Counter[str]:
        """How often what befell a request."""
        with self.lock:
            return Counter(one.fault for one in self.passed if one.fault)

    @property
    def depth(self) -> int:
        """The longest chain of requests each of which began after the one before had ended."""
        with self.lock:
            ended = sorted((one for one in self.passed if one.ended), key=lambda one: one.ended)
            began = sorted(self.passed, key=lambda one: one.began)
        depths: dict[int, int] = {}
        deepest, next_ended = 0, 0
        for one in began:
            while next_ended < len(ended) and ended[next_ended].ended <= one.began:
                deepest = max(deepest, depths.get(id(ended[next_ended]), 0))
                next_ended += 1
            depths[id(one)] = deepest + 1
        return max(depths.values(), default=0)

    def reset(self) -> None:
        """Forget what passed."""
        with self.lock:
            self.passed.clear()


def every(period: int, *kinds: Kind) -> Plan:
    """Every so many requests one fails, in each of these ways in turn."""
    number = itertools.count(1)
    turn = itertools.cycle(kinds)
    lock = threading.Lock()

    def plan(passing: Passing) -> Kind | None:
        with lock:
            return next(turn) if next(number) % period == 0 else None

    return plan


def at_random(seed: int, rate: float, *kinds: Kind) -> Plan:
    """Each request fails with this probability, in any of these ways."""
    draw = random.Random(seed)
    lock = threading.Lock()

    def plan(passing: Passing) -> Kind | None:
        with lock:
            return draw.choice(kinds) if draw.random() < rate else None

    return plan


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that go away


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    proxy: Proxy
    upstream: http.client.HTTPConnection | None = None

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_request(self) -> None:
        body = self.read_body()
        conditional = self.command == "PUT" and any(name in self.headers for name in _CONDITIONS)
        passing = Passing(self.command, self.path, conditional, time.monotonic(), received=len(body))
        plan = self.proxy.plan
        fault = plan(passing) if plan is not None else None
        passing.fault = None if fault == "conflict" and not conditional else fault
        with self.proxy.lock:  # before the client knows, so that it finds what it did
            self.proxy.passed.append(passing)
        try:
            if self.proxy.latency:
                time.sleep(self.proxy.latency)
            self.pass_on(passing, body)
        finally:
            passing.ended = time.monotonic()

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = do_PATCH = do_OPTIONS = handle_request

    def read_body(self) -> bytes:
        if self.headers.get("expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def pass_on(self, passing: Passing, body: bytes) -> None:
        fault = passing.fault
        if fault == "reset":
            self.hang_up()
            return
        if fault in _ANSWERS:
            status, code = _ANSWERS[fault]
            self.answer(status, f"<Error><Code>{code}</Code></Error>".encode(), [])
            return
        status, content, headers = self.ask(body)
        passing.status, passing.sent = status, len(content)
        if fault == "lost":
            self.hang_up()
        elif fault == "cut" and self.command == "GET" and len(content) > 1:
            self.answer(status, content, headers, send=len(content) // 2)
            self.hang_up()
        else:
            self.answer(status, content, headers)

    def ask(self, body: bytes) -> tuple[int, bytes, list[tuple[str, str]]]:
        for fresh in (False, True):
            if fresh or self.upstream is None:
                parts = urlsplit(self.proxy.backend)
                self.upstream = http.client.HTTPConnection(parts.hostname or "", parts.port or 80)
                self.upstream.connect()
                self.upstream.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                return self.exchange(self.upstream, body)
            except (http.client.RemoteDisconnected, ConnectionError):
                if fresh:  # a connection that had been idle may be closed, a new one may not
                    raise
        raise AssertionError

    def exchange(self, upstream: http.client.HTTPConnection, body: bytes) -> tuple[int, bytes, list[tuple[str, str]]]:
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _HOP_BY_HOP | {"content-length", "expect"}:
                upstream.putheader(name, value)
        if body or self.command in ("PUT", "POST"):
            upstream.putheader("content-length", str(len(body)))
        upstream.endheaders(body or None)
        response = upstream.getresponse()
        content = response.read()
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP]
        return response.status, content, headers

    def answer(self, status: int, content: bytes, headers: list[tuple[str, str]], send: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD" and status not in (204, 304):
            self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if send is None else content[:send])
            self.wfile.flush()

    def hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy_of(backend: str, plan: Plan | None = None, latency: float = 0.0) -> Iterator[Proxy]:
    """A proxy of the server at the address `backend`."""
    proxy = Proxy("", backend, plan, latency)
    with Server(("127.0.0.1", 0), type("Bound", (Handler,), {"proxy": proxy})) as server:
        proxy.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()

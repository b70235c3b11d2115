"""A small S3 that does what it is told: the verbs that we use, atomic conditions, and failures on demand.

Faults are what no emulator offers: a request that is done and whose answer never arrives, a server that is busy, one that
knows no conditional writes. Everything that was asked is noted.
"""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

LOST = "lost"  # done, but the connection breaks before the answer
CUT = "cut"  # done, but the connection breaks in the middle of the answer
DROPPED = "dropped"  # the connection breaks before anything is done
Fault = str | int  # one of these, or the status of an error answer


@dataclass
class Asked:
    """One request that the server saw."""

    verb: str
    key: str
    headers: dict[str, str]
    query: dict[str, list[str]]
    host: str


@dataclass
class Stored:
    """One object."""

    data: bytes
    headers: dict[str, str]

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.data).hexdigest()}"'


@dataclass
class FakeS3:
    """The state of the server: one bucket, whatever its name."""

    url: str = ""
    objects: dict[str, Stored] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    """The next request with this verb fails so; used up in order."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    conditions: str = "honoured"
    """Or "ignored"; or "refused" with 501; or "of creation": those of updates are ignored."""
    clock: float | None = None
    """When everything was written; a day in 2023 where that is None."""
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    open_now: int = 0
    open_most: int = 0

    def verbs(self) -> list[str]:
        return [asked.verb for asked in self.asked]

    def fault_for(self, verb: str) -> Fault | None:
        with self.lock:
            if self.faults and self.faults[0][0] == verb:
                return self.faults.pop(0)[1]
            return None


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # more may knock at once than the five that are usual
    daemon_threads = True


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet per answer: else each waits for an acknowledgement
    disable_nagle_algorithm = True
    state: FakeS3

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_request(self) -> None:
        state = self.state
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        key = unquote(parts.path).lstrip("/").partition("/")[2]
        headers = {name.lower(): value for name, value in self.headers.items()}
        with state.lock:
            state.asked.append(Asked(self.command, key, headers, query, headers.get("host", "")))
            state.open_now += 1
            state.open_most = max(state.open_most, state.open_now)
        try:
            fault = state.fault_for(self.command)
            if fault == DROPPED:
                self.close_connection = True
                return
            if isinstance(fault, int):
                self.answer(fault, b"<Error><Code>Fault</Code></Error>")
                return
            with state.lock:
                status, content, out = self.act(key, query, headers, body)
            if fault == LOST:
                self.close_connection = True
                return
            if fault == CUT:
                self.close_connection = True
                out, content = {**out, "content-length": str(len(content))}, content[: len(content) // 2]
            self.answer(status, content, out)
        finally:
            with state.lock:
                state.open_now -= 1

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = handle_request

    def answer(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        out = {"content-length": str(len(content)), **(headers or {})}
        for name, value in out.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def act(
        self, key: str, query: dict[str, list[str]], headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        if self.command == "PUT":
            return self.put(key, query, headers, body)
        if self.command == "POST":
            return self.post(key, query, body)
        if self.command == "DELETE":
            self.state.objects.pop(key, None)
            return 204, b"", {}
        if "list-type" in query:
            return 200, self.listing(query["prefix"][0] if "prefix" in query else ""), {}
        return self.get(key, headers)

    def put(
        self, key: str, query: dict[str, list[str]], headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        if "partNumber" in query:
            self.state.uploads[query["uploadId"][0]][int(query["partNumber"][0])] = body
            return 200, b"", {"etag": '"part"'}
        found = self.state.objects.get(key)
        conditions = self.state.conditions
        if conditions == "refused" and ("if-match" in headers or "if-none-match" in headers):
            return 501, b"<Error><Code>NotImplemented</Code></Error>", {}
        if headers.get("if-none-match") == "*" and found is not None and conditions != "ignored":
            return 412, b"<Error><Code>PreconditionFailed</Code></Error>", {}
        wanted = headers.get("if-match") if conditions == "honoured" else None
        if wanted is not None and (found is None or found.etag.strip('"') != wanted):  # with quotes: no match, as Ceph
            return 412, b"<Error><Code>PreconditionFailed</Code></Error>", {}
        stored = self.state.objects[key] = Stored(body, headers)
        return 200, b"", {"etag": stored.etag}

    def post(self, key: str, query: dict[str, list[str]], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if "delete" in query:
            keys = [part.partition("</Key>")[0] for part in body.decode().split("<Key>")[1:]]
            for gone in keys:
                self.state.objects.pop(gone, None)
            lines = "".join(f"<Deleted><Key>{gone}</Key></Deleted>" for gone in keys)
            return 200, f"<DeleteResult>{lines}</DeleteResult>".encode(), {}
        if "uploads" in query:
            name = f"upload-{len(self.state.uploads)}"
            self.state.uploads[name] = {}
            return 200, f"<R><UploadId>{name}</UploadId></R>".encode(), {}
        parts = self.state.uploads[query["uploadId"][0]]
        stored = self.state.objects[key] = Stored(b"".join(data for _, data in sorted(parts.items())), {})
        # as Ceph does: no etag here
        return (
            200,
            b"<CompleteMultipartUploadResult><ETag></ETag></CompleteMultipartUploadResult>",
            {"etag": stored.etag},
        )

    def get(self, key: str, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        found = self.state.objects.get(key)
        if found is None:
            return 404, b"<Error><Code>NoSuchKey</Code></Error>", {}
        written = 1_700_000_000 if self.state.clock is None else self.state.clock
        out = {"etag": found.etag, "last-modified": formatdate(written, usegmt=True)}
        out |= {name: value for name, value in found.headers.items() if name.startswith("x-amz-meta-")}
        if headers.get("if-none-match") == found.etag:
            return 304, b"", out
        data, size = found.data, len(found.data)
        if self.command == "HEAD":
            return 200, b"", out | {"content-length": str(size)}
        if "range" not in headers:
            return 200, data, out
        first, _, last = headers["range"].removeprefix("bytes=").partition("-")
        start = int(first) if first else max(size - int(last), 0)
        stop = min(int(last) + 1, size) if first and last else size
        if start >= size:
            return 416, b"<Error><Code>InvalidRange</Code></Error>", {}
        return 206, data[start:stop], out | {"content-range": f"bytes {start}-{stop - 1}/{size}"}

    def listing(self, prefix: str) -> bytes:
        lines = [
            f"<Contents><Key>{escape(key)}</Key><LastModified>2023-11-14T22:13:20.000Z</LastModified>"
            f"<ETag>{stored.etag}</ETag><Size>{len(stored.data)}</Size></Contents>"
            for key, stored in sorted(self.state.objects.items())
            if key.startswith(prefix)
        ]
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(lines)}</ListBucketResult>".encode()


@contextmanager
def serving() -> Iterator[FakeS3]:
    """A server of its own, on this machine."""
    state = FakeS3()
    handler = type("Bound", (Handler,), {"state": state})
    with Server(("127.0.0.1", 0), handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()

"""A small web server: files of a dict, with ranges, etags and times, or of a directory; notes what it was asked."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from urllib.parse import unquote, urlsplit

MODIFIED = 1_700_000_000


@dataclass
class Page:
    """One file of the server."""

    data: bytes
    modified: float = MODIFIED

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.data).hexdigest()}"'


@dataclass
class Asked:
    """One request that the server saw."""

    verb: str
    path: str
    headers: dict[str, str]


@dataclass
class WebServer:
    """The state of the server: what it has, what it was asked, and how it answers to some paths."""

    url: str = ""
    pages: dict[str, Page] = field(default_factory=dict)
    directory: Path | None = None
    asked: list[Asked] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)

    def page(self, path: str) -> Page | None:
        if path in self.pages:
            return self.pages[path]
        file = self.directory / path if self.directory is not None else None
        if file is None or not file.is_file():
            return None
        return Page(file.read_bytes(), file.stat().st_mtime)


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # more may knock at once than the five that are usual
    daemon_threads = True


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet per answer: else each waits for an acknowledgement
    disable_nagle_algorithm = True
    state: WebServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.state.asked.append(Asked(self.command, path, headers))
        if path in self.state.redirects:
            self.answer(302, b"", {"location": self.state.redirects[path]})
        elif path in self.state.statuses:
            self.answer(self.state.statuses[path], b"no")
        else:
            page = self.state.page(path)
            self.answer(404, b"nothing") if page is None else self.give(page, headers)

    do_HEAD = do_GET

    def give(self, page: Page, headers: dict[str, str]) -> None:
        out = {"etag": page.etag, "last-modified": formatdate(page.modified, usegmt=True), "accept-ranges": "bytes"}
        size = len(page.data)
        if headers.get("if-none-match") == page.etag:
            self.answer(304, b"", out)
        elif "range" not in headers:
            self.answer(200, page.data, out)
        else:
            first, _, last = headers["range"].removeprefix("bytes=").partition("-")
            start = int(first) if first else max(size - int(last), 0)
            stop = min(int(last) + 1, size) if first and last else size
            if start >= size:
                self.answer(416, b"", {"content-range": f"bytes */{size}"})
            else:
                self.answer(206, page.data[start:stop], out | {"content-range": f"bytes {start}-{stop - 1}/{size}"})

    def answer(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def web_server(directory: Path | None = None) -> Iterator[WebServer]:
    """A server of its own, on this machine, with the files of a directory if one is given."""
    state = WebServer(directory=directory)
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

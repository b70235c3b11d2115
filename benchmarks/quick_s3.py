"""An S3 in memory that costs as little as it can, so that a measurement shows the cost of the client.

    python benchmarks/quick_s3.py PORT

It checks no signature, makes no checksum and keeps every object as the bytes that came. One thread per connection; sockets
give Python's lock away while they copy, so big objects go at the speed of memory. Only for measuring: whoever reaches the port
may read and write.

`GET /?requests` tells how often each verb was asked for since that question was asked last.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import sys
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

_HEAD_LIMIT = 1 << 16
_PAGE = 1000
_REASONS = {200: "OK", 204: "No Content", 206: "Partial Content", 304: "Not Modified", 404: "Not Found"}


@dataclass(frozen=True)
class Stored:
    """One object."""

    data: memoryview
    etag: str
    metadata: tuple[tuple[str, str], ...] = ()
    written: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Asked:
    """One request."""

    verb: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    body: memoryview


@dataclass(frozen=True)
class Answer:
    """What is said to it."""

    status: int
    body: bytes | memoryview = b""
    headers: tuple[tuple[str, str], ...] = ()


class QuickS3:
    """The objects of all buckets, by `bucket/key`."""

    def __init__(self) -> None:
        self._objects: dict[str, Stored] = {}
        self._uploads: dict[str, dict[int, memoryview]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._asked: Counter[str] = Counter()

    def act(self, asked: Asked) -> Answer:
        """Do what was asked."""
        if "requests" in asked.query:
            counts, self._asked = self._asked, Counter()
            return Answer(200, json.dumps(counts).encode())
        self._asked[asked.verb] += 1
        if "/" not in asked.key.rstrip("/"):
            return self._bucket(asked)
        if asked.verb == "PUT":
            return self._put(asked)
        if asked.verb == "POST":
            return self._multipart(asked)
        if asked.verb == "DELETE":
            self._objects.pop(asked.key, None)
            return Answer(204)
        return self._get(asked)

    def _bucket(self, asked: Asked) -> Answer:
        if "list-type" in asked.query:
            return self._list(asked)
        if "delete" in asked.query:
            keys = [part.partition("</Key>")[0] for part in bytes(asked.body).decode().split("<Key>")[1:]]
            for key in keys:
                self._objects.pop(f"{asked.key.rstrip('/')}/{key}", None)
            gone = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            return Answer(200, f"<DeleteResult>{gone}</DeleteResult>".encode())
        return Answer(200)

    def _put(self, asked: Asked) -> Answer:
        if "partNumber" in asked.query:
            self._uploads[asked.query["uploadId"]][int(asked.query["partNumber"])] = asked.body
            return Answer(200, headers=(("etag", f'"part-{asked.query["partNumber"]}"'),))
        metadata = tuple((name, text) for name, text in asked.headers.items() if name.startswith("x-amz-meta-"))
        stored = Stored(asked.body, f'"{next(self._numbers):032x}"', metadata)
        with self._lock:
            found = self._objects.get(asked.key)
            wanted = asked.headers.get("if-match")
            if (found is not None and asked.headers.get("if-none-match") == "*") or (
                wanted is not None and (found is None or found.etag.strip('"') != wanted.strip('"'))
            ):
                return Answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            self._objects[asked.key] = stored
        return Answer(200, headers=(("etag", stored.etag),))

    def _multipart(self, asked: Asked) -> Answer:
        if "uploads" in asked.query:
            name = f"upload-{next(self._numbers)}"
            self._uploads[name] = {}
            return Answer(
                200,
                f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>".encode(),
            )
        parts = self._uploads.pop(asked.query["uploadId"])
        etag = f'"{next(self._numbers):032x}"'
        self._objects[asked.key] = Stored(memoryview(b"".join(data for _, data in sorted(parts.items()))), etag)
        text = f"<CompleteMultipartUploadResult><ETag>{escape(etag)}</ETag></CompleteMultipartUploadResult>"
        return Answer(200, text.encode(), (("etag", etag),))

    def _get(self, asked: Asked) -> Answer:
        found = self._objects.get(asked.key)
        if found is None:
            return Answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        headers = (("etag", found.etag), ("last-modified", formatdate(found.written, usegmt=True)), *found.metadata)
        if asked.headers.get("if-none-match") == found.etag:
            return Answer(304, headers=headers)
        size = len(found.data)
        if "range" not in asked.headers:
            return Answer(200, found.data, headers)
        first, _, last = asked.headers["range"].removeprefix("bytes=").partition("-")
        start = int(first) if first else max(size - int(last), 0)
        stop = min(int(last) + 1, size) if first and last else size
        if start >= size:
            return Answer(416, b"<Error><Code>InvalidRange</Code></Error>")
        where = ("content-range", f"bytes {start}-{stop - 1}/{size}")
        return Answer(206, found.data[start:stop], (*headers, where))

    def _list(self, asked: Asked) -> Answer:
        bucket = asked.key.rstrip("/") + "/"
        prefix, delimiter = bucket + asked.query.get("prefix", ""), asked.query.get("delimiter", "")
        keys = sorted(key for key in list(self._objects) if key.startswith(prefix))
        after = asked.query.get("continuation-token") or asked.query.get("start-after")
        begin = bisect_right(keys, bucket + after) if after else 0
        page = keys[begin : begin + min(int(asked.query.get("max-keys") or _PAGE), _PAGE)]
        lines, folders = [], set()
        for key in page:
            name, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if cut:
                folders.add(key[len(bucket) : len(prefix)] + name + delimiter)
                continue
            stored = self._objects[key]
            written = datetime.fromtimestamp(stored.written, UTC)
            lines.append(
                f"<Contents><Key>{escape(key[len(bucket) :])}</Key>"
                f"<LastModified>{written:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
                f"<ETag>{escape(stored.etag)}</ETag><Size>{len(stored.data)}</Size></Contents>"
            )
        lines += [f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)]
        more = begin + len(page) < len(keys)
        token = f"<NextContinuationToken>{escape(page[-1][len(bucket) :])}</NextContinuationToken>" if more else ""
        return Answer(
            200,
            f"<ListBucketResult><KeyCount>{len(page)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{token}{''.join(lines)}</ListBucketResult>".encode(),
        )


class Connection:
    """One connection: requests are read from it and answered, one after the other."""

    def __init__(self, sock: socket.socket, store: QuickS3) -> None:
        self._sock, self._store, self._rest = sock, store, b""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def serve(self) -> None:
        """Until the client goes."""
        with self._sock, contextlib.suppress(ConnectionError):
            while (asked := self._read()) is not None:
                self._answer(asked, self._store.act(asked))

    def _read(self) -> Asked | None:
        head = self._head()
        if head is None:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        verb, target, _ = first.split(" ")
        headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
        path, _, query = target.partition("?")
        if headers.get("expect", "").lower() == "100-continue":
            self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self._body(int(headers.get("content-length") or 0))
        if "aws-chunked" in headers.get("content-encoding", "") or "x-amz-decoded-content-length" in headers:
            body = memoryview(b"".join(_unchunked(body)))
        return Asked(verb, unquote(path)[1:], dict(parse_qsl(query, keep_blank_values=True)), headers, body)

    def _head(self) -> bytes | None:
        data = self._rest
        while (end := data.find(b"\r\n\r\n")) < 0:
            more = self._sock.recv(_HEAD_LIMIT)
            if not more:
                return None
            data += more
        self._rest = data[end + 4 :]
        return data[:end]

    def _body(self, size: int) -> memoryview:
        begun, self._rest = self._rest[:size], self._rest[size:]
        if len(begun) == size:
            return memoryview(begun)
        body = bytearray(size)
        body[: len(begun)] = begun
        view, done = memoryview(body), len(begun)
        while done < size:
            count = self._sock.recv_into(view[done:])
            if not count:
                raise ConnectionError("the client went away")
            done += count
        return view

    def _answer(self, asked: Asked, answer: Answer) -> None:
        lines = [f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Error')}", f"date: {formatdate(usegmt=True)}"]
        if answer.status != 204:
            lines.append(f"content-length: {len(answer.body)}")
        lines += [f"{name}: {text}" for name, text in answer.headers]
        head = "\r\n".join([*lines, "", ""]).encode()
        if asked.verb == "HEAD" or not answer.body:
            self._sock.sendall(head)
            return
        sent = self._sock.sendmsg([head, answer.body])
        if sent < len(head):
            self._sock.sendall(head[sent:])
            sent = len(head)
        self._sock.sendall(memoryview(answer.body)[sent - len(head) :])


def _unchunked(body: memoryview) -> Iterator[memoryview]:
    """The data of a body in the chunks of `aws-chunked`."""
    place = 0
    while True:
        end = bytes(body[place : place + 200]).index(b"\r\n")
        size = int(bytes(body[place : place + end]).partition(b";")[0], 16)
        if not size:
            return
        place += end + 2
        yield body[place : place + size]
        place += size + 2


def main() -> None:
    """Serve on this machine only, until killed."""
    store = QuickS3()
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=256) as listening:
        while True:
            sock, _ = listening.accept()
            threading.Thread(target=Connection(sock, store).serve, daemon=True).start()


if __name__ == "__main__":
    main()

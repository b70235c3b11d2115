"""The XML interface of Google Cloud Storage in front of an emulator that has only the JSON one (fake-gcs-server).

Clients of object stores speak XML to Google. This translates what they need: put with a generation to match, get and head
with ranges, delete, list. Metadata is kept by the emulator but not told again.
"""

from __future__ import annotations

import http.client
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit
from xml.sax.saxutils import escape

_BOUNDARY = "xxboundaryxx"


class Front(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    backend: str

    def log_message(self, format: str, *args: object) -> None:
        pass

    def ask(
        self, verb: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(self.backend)
        try:
            connection.request(verb, path, body, headers or {})
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        if self.command == "PUT":
            self.put(bucket, key, body)
        elif self.command == "DELETE":
            response, _ = self.ask("DELETE", f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}")
            self.answer(204 if response.status == 200 else response.status)
        elif key:
            self.get(bucket, key)
        else:
            self.list(bucket, query)

    do_GET = do_HEAD = do_PUT = do_DELETE = handle_request

    def put(self, bucket: str, key: str, body: bytes) -> None:
        about = json.dumps({"name": key, "contentType": "application/octet-stream"})
        sent = (
            f"--{_BOUNDARY}\r\nContent-Type: application/json\r\n\r\n{about}\r\n"
            f"--{_BOUNDARY}\r\nContent-Type: application/octet-stream\r\n\r\n"
        ).encode()
        query = {"uploadType": "multipart", "name": key}
        if "x-goog-if-generation-match" in self.headers:
            query["ifGenerationMatch"] = self.headers["x-goog-if-generation-match"]
        response, text = self.ask(
            "POST",
            f"/upload/storage/v1/b/{bucket}/o?{urlencode(query)}",
            sent + body + f"\r\n--{_BOUNDARY}--\r\n".encode(),
            {"content-type": f"multipart/related; boundary={_BOUNDARY}"},
        )
        if response.status != 200:
            self.answer(response.status, text)
            return
        facts = json.loads(text)
        self.answer(200, b"", {"ETag": f'"{facts["etag"]}"', "x-goog-generation": facts["generation"]})

    def get(self, bucket: str, key: str) -> None:
        wanted = {"range": self.headers["range"]} if "range" in self.headers else {}
        response, data = self.ask("GET", f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}?alt=media", headers=wanted)
        if response.status not in (200, 206):
            self.answer(response.status, data)
            return
        told = {"etag": "Etag", "x-goog-generation": "X-Goog-Generation", "last-modified": "Last-Modified"}
        headers = {name: response.headers[source] for name, source in told.items()}
        if self.headers.get("if-none-match") == headers["etag"]:
            self.answer(304, b"", headers)
            return
        if response.status == 206:
            headers["content-range"] = response.headers["Content-Range"]
        self.answer(response.status, data, headers)

    def list(self, bucket: str, query: dict[str, str]) -> None:
        asked = {"prefix": query.get("prefix", ""), "maxResults": query.get("max-keys", "1000")}
        if "continuation-token" in query:
            asked["pageToken"] = query["continuation-token"]
        _, text = self.ask("GET", f"/storage/v1/b/{bucket}/o?{urlencode(asked)}")
        found: dict[str, Any] = json.loads(text)
        token = found.get("nextPageToken")
        lines = [
            f"<Contents><Key>{escape(item['name'])}</Key><Generation>{item['generation']}</Generation>"
            f"<LastModified>{item['updated']}</LastModified><ETag>{item['etag']}</ETag><Size>{item['size']}</Size>"
            "</Contents>"
            for item in found.get("items", [])
        ]
        more = f"<NextContinuationToken>{escape(token)}</NextContinuationToken>" if token else ""
        body = f"<ListBucketResult>{''.join(lines)}{more}</ListBucketResult>"
        self.answer(200, body.encode(), {"content-type": "application/xml"})


@contextmanager
def in_front_of(backend: str) -> Iterator[str]:
    """The address of a front of the emulator at `backend` (host:port)."""
    handler = type("Bound", (Front,), {"backend": backend})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()

"""The XML interface of Google Cloud Storage in front of an emulator that has only the JSON one (fake-gcs-server).

Clients of object stores speak XML to Google. This translates what they need: put and copy with a generation to match,
uploads in parts, get and head with ranges and etags, delete, list. The parts of an upload wait here until it is complete.
"""

from __future__ import annotations

import http.client
import http.server
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit
from xml.sax.saxutils import escape

_BOUNDARY = "xxboundaryxx"
_META = "x-goog-meta-"
_NAMES = {"etag": "Etag", "x-goog-generation": "X-Goog-Generation", "last-modified": "Last-Modified"}

Answer = tuple[int, bytes, dict[str, str]]


@dataclass
class State:
    """What all connections share: where the emulator is, and uploads under way."""

    backend: str
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # more may knock at once than the five that are usual
    daemon_threads = True


class Front(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    state: State
    connection_to_backend: http.client.HTTPConnection | None = None

    def log_message(self, format: str, *args: object) -> None:
        pass

    # --- towards the client ---

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        status, content, headers = self.act(bucket, key, query, body)
        self.send_response(status)
        for name, value in {"content-length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = handle_request

    def act(self, bucket: str, key: str, query: dict[str, str], body: bytes) -> Answer:
        match self.command:
            case "PUT" if "partNumber" in query:
                self.state.uploads[query["uploadId"]][int(query["partNumber"])] = body
                return 200, b"", {"etag": '"part"'}
            case "PUT" if "x-goog-copy-source" in self.headers:
                return self.copy(bucket, key)
            case "PUT":
                return self.put(bucket, key, body)
            case "POST" if "uploads" in query:
                name = f"upload-{next(self.state.numbers)}"
                self.state.uploads[name] = {}
                return 200, f"<R><UploadId>{name}</UploadId></R>".encode(), {}
            case "POST":
                parts = self.state.uploads.pop(query["uploadId"])
                status, content, headers = self.put(bucket, key, b"".join(parts[number] for number in sorted(parts)))
                etag = escape(headers.get("etag", ""))
                return status, content or f"<R><ETag>{etag}</ETag></R>".encode(), headers
            case "DELETE":
                response, content = self.ask("DELETE", _object(bucket, key))
                return (204, b"", {}) if response.status in (200, 204) else (response.status, content, {})
            case _ if key:
                return self.get(bucket, key)
            case _:
                return self.list(bucket, query)

    def put(self, bucket: str, key: str, body: bytes) -> Answer:
        headers = {name.lower(): value for name, value in self.headers.items()}
        about = {
            "name": key,
            "contentType": headers.get("content-type", "application/octet-stream"),
            "metadata": {name[len(_META) :]: value for name, value in headers.items() if name.startswith(_META)},
        }
        sent = (
            f"--{_BOUNDARY}\r\nContent-Type: application/json\r\n\r\n{json.dumps(about)}\r\n"
            f"--{_BOUNDARY}\r\nContent-Type: application/octet-stream\r\n\r\n"
        ).encode()
        query = {"uploadType": "multipart", "name": key, **self.generation()}
        response, content = self.ask(
            "POST",
            f"/upload/storage/v1/b/{bucket}/o?{urlencode(query)}",
            sent + body + f"\r\n--{_BOUNDARY}--\r\n".encode(),
            {"content-type": f"multipart/related; boundary={_BOUNDARY}"},
        )
        return self.written(response.status, content)

    def copy(self, bucket: str, key: str) -> Answer:
        source_bucket, _, source = unquote(self.headers["x-goog-copy-source"]).lstrip("/").partition("/")
        target = f"{_object(source_bucket, source)}/rewriteTo{_object(bucket, key).removeprefix('/storage/v1')}"
        json_type = {"content-type": "application/json"}
        response, content = self.ask("POST", f"{target}?{urlencode(self.generation())}", b"{}", json_type)
        if response.status != 200:
            return response.status, content, {}
        status, _, headers = self.written(200, json.dumps(json.loads(content)["resource"]).encode())
        return status, b"<CopyObjectResult/>", headers

    def generation(self) -> dict[str, str]:
        wanted = self.headers.get("x-goog-if-generation-match")
        return {} if wanted is None else {"ifGenerationMatch": wanted}

    def written(self, status: int, content: bytes) -> Answer:
        if status != 200:
            return status, content, {}
        facts = json.loads(content)
        return 200, b"", {"etag": f'"{facts["etag"]}"', "x-goog-generation": facts["generation"]}

    def get(self, bucket: str, key: str) -> Answer:
        wanted = {"range": self.headers["range"]} if "range" in self.headers else {}
        response, data = self.ask("GET", f"{_object(bucket, key)}?alt=media", headers=wanted)
        if response.status not in (200, 206):
            return response.status, data, {}
        headers = {name: response.headers[source] for name, source in _NAMES.items()}
        headers |= {name.lower(): value for name, value in response.getheaders() if name.lower().startswith(_META)}
        headers["content-type"] = response.headers.get("Content-Type", "")
        if self.headers.get("if-none-match") == headers["etag"]:
            return 304, b"", headers
        if self.headers.get("if-match", headers["etag"]) not in (headers["etag"], "*"):
            return 412, b"", {}
        if response.status == 206:
            headers["content-range"] = response.headers["Content-Range"]
        return response.status, data, headers

    def list(self, bucket: str, query: dict[str, str]) -> Answer:
        asked = {"prefix": query.get("prefix", ""), "maxResults": query.get("max-keys", "1000")}
        names = {"delimiter": "delimiter", "continuation-token": "pageToken", "start-after": "startOffset"}
        asked |= {theirs: query[ours] for ours, theirs in names.items() if ours in query}
        _, text = self.ask("GET", f"/storage/v1/b/{bucket}/o?{urlencode(asked)}")
        found: dict[str, Any] = json.loads(text)
        token = found.get("nextPageToken")
        lines = [
            f"<Contents><Key>{escape(item['name'])}</Key><Generation>{item['generation']}</Generation>"
            f"<LastModified>{item['updated']}</LastModified><ETag>{item['etag']}</ETag><Size>{item['size']}</Size>"
            "</Contents>"
            for item in found.get("items", [])
            if item["name"] != query.get("start-after")
        ]
        lines += [
            f"<CommonPrefixes><Prefix>{escape(prefix)}</Prefix></CommonPrefixes>"
            for prefix in found.get("prefixes", [])
        ]
        more = f"<NextContinuationToken>{escape(token)}</NextContinuationToken>" if token else ""
        body = f"<ListBucketResult>{''.join(lines)}{more}</ListBucketResult>"
        return 200, body.encode(), {"content-type": "application/xml"}

    # --- towards the emulator ---

    def ask(
        self, verb: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        if self.connection_to_backend is None:
            self.connection_to_backend = http.client.HTTPConnection(self.state.backend)
        connection = self.connection_to_backend
        try:
            connection.request(verb, path, body, headers or {})
            response = connection.getresponse()
            return response, response.read()
        except (http.client.HTTPException, OSError):
            connection.close()
            raise


def _object(bucket: str, key: str) -> str:
    return f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}"


@contextmanager
def in_front_of(backend: str) -> Iterator[str]:
    """The address of a front of the emulator at `backend` (host:port)."""
    handler = type("Bound", (Front,), {"state": State(backend)})
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()

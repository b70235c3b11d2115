"""Making storages: argument checks, which need no client and no network, and what the result says of itself."""

from __future__ import annotations

import http.server
import inspect
import pickle
import threading
from collections.abc import Iterator
from datetime import UTC
from typing import Any, ClassVar

import pytest

import icechunk.storage
from icechunk._driver import run
from icechunk.config import S3Options, StorageSettings
from icechunk.credentials import s3_anonymous_credentials
from icechunk.errors import ErrorKind, StorageError
from icechunk.storage import (
    Storage,
    azure_storage,
    gcs_storage,
    hf_storage,
    http_storage,
    in_memory_storage,
    local_filesystem_storage,
    r2_storage,
    redirect_storage,
    s3_object_store_storage,
    s3_storage,
    tigris_storage,
)
from icechunk.storage.builders import directory, merged_headers
from icechunk.storage.redirect import follow, storage_at


def test_local_and_memory() -> None:
    first, second = in_memory_storage(), Storage.new_in_memory()
    run(first.put("a/b", b"123"))
    assert run(first.exists("a/b")) and not run(second.exists("a/b"))
    (info,) = first.list_objects_metadata()
    assert (info.key, info.size_bytes, info.created_at.tzinfo) == ("a/b", 3, UTC)
    assert first.list_objects_metadata(prefix="a") == first.list_objects_metadata(prefix="/a/") == [info]
    assert first.list_objects_metadata(prefix="b") == []
    with pytest.warns(DeprecationWarning):
        assert first.list_objects() == [("a/b", 3)]


def test_local_storage_takes_paths(tmp_path: Any) -> None:
    storage = local_filesystem_storage(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert f"path: {tmp_path / 'new'}" in repr(storage)
    assert repr(storage).startswith("<icechunk.Storage>\ntype: local filesystem\n")
    assert repr(Storage.new_local_filesystem(str(tmp_path / "new"))) == repr(storage)
    with pytest.raises(TypeError):
        local_filesystem_storage(3)  # type: ignore[arg-type]


def test_default_settings_suit_the_backend(tmp_path: Any) -> None:
    for storage, size in ((in_memory_storage(), 1), (local_filesystem_storage(tmp_path), 4096)):
        settings = storage.default_settings()
        assert isinstance(settings, StorageSettings)
        assert settings.concurrency is not None and settings.retries is not None
        assert settings.concurrency.ideal_concurrent_request_size == size
        assert settings.retries.max_tries == 1


def test_storages_show_themselves_in_notebooks() -> None:
    html = in_memory_storage()._repr_html_()
    assert "icechunk.Storage" in html and "in-memory" in html


@pytest.mark.parametrize(
    "make",
    [
        lambda: s3_storage(bucket="b"),  # type: ignore[call-arg]
        lambda: s3_storage(bucket=3, prefix="p"),  # type: ignore[arg-type]
        lambda: s3_storage(bucket="b", prefix="p", region=3),  # type: ignore[arg-type]
        lambda: s3_storage(bucket="b", prefix="p", headers={"a": 3}),  # type: ignore[dict-item]
        lambda: s3_storage(bucket="b", prefix="p", checksum_algorithm=3),  # type: ignore[arg-type]
        lambda: azure_storage(account="a", container="c"),  # type: ignore[call-arg]
        lambda: azure_storage(account="a", container="c", prefix=None),  # type: ignore[arg-type]
        lambda: gcs_storage(bucket="b", prefix="p", config={"a": 3}),  # type: ignore[dict-item]
        lambda: http_storage(3),  # type: ignore[arg-type]
        lambda: Storage.new_s3(S3Options(), "b", "p", "secret"),  # type: ignore[arg-type]
        lambda: Storage.new_s3("options", "b", "p"),  # type: ignore[arg-type]
        lambda: Storage.new_gcs("b", "p", s3_anonymous_credentials()),  # type: ignore[arg-type]
        lambda: Storage.new_azure_blob("a", "c", "p", s3_anonymous_credentials()),  # type: ignore[arg-type]
        lambda: Storage(),  # type: ignore[abstract]
    ],
)
def test_wrong_types(make: Any) -> None:
    with pytest.raises(TypeError):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: s3_storage(bucket="b", prefix="p", access_key_id="a"),
        lambda: s3_storage(bucket="b", prefix="p", anonymous=True, from_env=True),
        lambda: r2_storage(bucket="b", account_id="x", access_key_id="a"),
        lambda: azure_storage(account="a", container="c", prefix="p", access_key="x", sas_token="y"),
        lambda: gcs_storage(bucket="b", prefix="p", bearer_token="x", from_env=True),
        lambda: s3_storage(bucket="b", prefix="p", headers={"bad header": "x"}),
        lambda: s3_storage(bucket="b", prefix="p", read_headers={"good": "bad\r\nX: y"}),
    ],
)
def test_contradictions(make: Any) -> None:
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize(
    ("make", "message", "kind"),
    [
        (lambda: r2_storage(), "Either bucket or prefix", ErrorKind.STORAGE_CONFIG),
        (lambda: r2_storage(account_id="x", prefix="/"), "Either bucket or prefix", ErrorKind.STORAGE_CONFIG),
        (lambda: r2_storage(bucket="b"), "Either endpoint_url or account_id", ErrorKind.STORAGE_CONFIG),
        (lambda: tigris_storage(bucket="b", prefix="p"), "requires a region", ErrorKind.STORAGE_CONFIG),
        (lambda: s3_storage(bucket="", prefix="p"), "bucket must not be empty", ErrorKind.STORAGE_CONFIG),
        (
            lambda: s3_storage(bucket="b", prefix="p", legacy_rooted_keys=True),
            "only valid with an empty prefix",
            ErrorKind.STORAGE_CONFIG,
        ),
        (lambda: http_storage("foo"), "error parsing URL", ErrorKind.CANNOT_PARSE_URL),
        (lambda: http_storage("ftp://h/x"), "error parsing URL", ErrorKind.CANNOT_PARSE_URL),
        (lambda: redirect_storage("https:///x"), "error parsing URL", ErrorKind.CANNOT_PARSE_URL),
    ],
)
def test_places_that_are_none(make: Any, message: str, kind: ErrorKind) -> None:
    with pytest.raises(StorageError, match=message) as raised:
        make()
    assert raised.value.kind == kind


def test_prefixes_and_headers() -> None:
    assert [directory(prefix) for prefix in (None, "", "/", "a/b", "/a/b/")] == ["", "", "", "a/b", "a/b"]
    assert merged_headers({"a": "1", "b": "2"}, {"b": "3"}) == {"a": "1", "b": "3"}
    assert merged_headers(None, None) == {}


# ---------------------------------------------------------------------------------------------- places on the network


@pytest.mark.parametrize(
    ("make", "facts"),
    [
        (lambda: s3_storage(bucket="b", prefix="/p/"), {"bucket": "b", "prefix": "p"}),
        (lambda: s3_storage(bucket="b", prefix=None, region="eu-1"), {"bucket": "b", "region": "eu-1"}),
        (lambda: s3_object_store_storage(bucket="b", prefix="p"), {"bucket": "b", "prefix": "p"}),
        (
            lambda: r2_storage(prefix="b/p", account_id="x"),
            {"bucket": "b", "prefix": "p", "region": "auto", "endpoint_url": "https://x.r2.cloudflarestorage.com"},
        ),
        (lambda: r2_storage(bucket="b", endpoint_url="https://x"), {"bucket": "b", "endpoint_url": "https://x"}),
        (
            lambda: tigris_storage(bucket="b", prefix="p", region="iad"),
            {"bucket": "b", "region": "iad", "endpoint_url": "https://t3.storage.dev"},
        ),
        (
            lambda: hf_storage(bucket="b", prefix="p", namespace="n"),
            {"bucket": "b", "region": "us-east-1", "endpoint_url": "https://s3.hf.co/n"},
        ),
        (lambda: gcs_storage(bucket="b", prefix="p", anonymous=True), {"bucket": "b", "prefix": "p"}),
        (
            lambda: azure_storage(account="a", container="c", prefix="p", sas_token="sig=secret"),
            {"account": "a", "container": "c", "prefix": "p"},
        ),
        (lambda: http_storage("https://h/x"), {"url": "https://h/x"}),
        (lambda: redirect_storage("https://h/x"), {"type": "redirect", "url": "https://h/x"}),
    ],
)
def test_what_storages_say_of_themselves(make: Any, facts: dict[str, str]) -> None:
    storage = make()
    described = storage.describe()
    assert {name: described.get(name) for name in facts} == facts
    assert "secret" not in repr(storage)
    assert pickle.loads(pickle.dumps(storage)).describe() == described


def test_weak_consistency_only_reads() -> None:
    assert tigris_storage(bucket="b", prefix="p", use_weak_consistency=True).read_only
    assert not tigris_storage(bucket="b", prefix="p", region="iad").read_only


def test_public_names() -> None:
    assert set(icechunk.storage.__all__) <= set(dir(icechunk.storage))
    from icechunk.info import ChunkType

    assert icechunk.storage.ChunkType is ChunkType
    assert list(inspect.signature(s3_storage).parameters)[:5] == [
        *("bucket", "prefix", "region", "endpoint_url", "allow_http")
    ]


# ------------------------------------------------------------------------------------------------------------ redirects


class _Redirecting(http.server.BaseHTTPRequestHandler):
    locations: ClassVar[dict[str, str]] = {
        "/s3": "s3://bucket/pre?region=us-west-2",
        "/relative": "/s3",
        "/loop": "/loop",
        "/local": "file:///etc",
    }

    def do_GET(self) -> None:
        self.send_response(302 if self.path in self.locations else 404)
        if self.path in self.locations:
            self.send_header("Location", self.locations[self.path])
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Redirecting) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def test_redirects_are_followed(server: str) -> None:
    assert follow(f"{server}/s3") == follow(f"{server}/relative") == "s3://bucket/pre?region=us-west-2"
    assert follow("gs://bucket/x") == "gs://bucket/x"
    for path, message in (("/loop", "too many"), ("/nothing", "no location header")):
        with pytest.raises(StorageError, match=message) as raised:
            follow(server + path)
        assert raised.value.kind == ErrorKind.BAD_REDIRECT
    with pytest.raises(StorageError, match="failed"):
        follow("http://127.0.0.1:1/")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/pre", "must have a region"),
        ("r2://bucket/pre", "must have a account_id|must have an account_id"),
        ("file:///tmp/x", "unknown scheme"),
        ("s3:///x?region=a", "doesn't have a host"),
    ],
)
def test_bad_targets(url: str, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        storage_at(url)


def test_a_redirected_storage_is_the_one_it_points_to(server: str) -> None:
    assert storage_at("gs://bucket/pre").describe()["bucket"] == "bucket"
    storage = pickle.loads(pickle.dumps(redirect_storage(f"{server}/s3")))
    assert storage.describe() == {"type": "redirect", "url": f"{server}/s3"}
    assert storage.inner.describe()["bucket"] == "bucket"
    with pytest.raises(StorageError, match="unknown scheme"):
        redirect_storage(f"{server}/local").default_settings()

"""What requests a storage in an object store makes, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

pytest.importorskip("obstore")

import icechunk
from icechunk._driver import run
from icechunk.config import S3Options, StorageConcurrencySettings, StorageRetriesSettings, StorageSettings
from icechunk.credentials import S3StaticCredentials
from icechunk.errors import (
    ErrorKind,
    InvalidInputError,
    ObjectNotFoundError,
    PreconditionFailedError,
    ReadOnlyError,
    StorageError,
)
from icechunk.storage import azure_storage, gcs_storage, http_storage, s3_storage
from icechunk.storage._object_errors import explain, translate
from icechunk.storage._object_services import address
from icechunk.storage.base import ABSENT, ByteRange, Storage, Unchanged
from icechunk.testing.storage_suite import paths_in, read
from tests.storage.fake_s3 import CUT, DROPPED, LOST, FakeS3, Stored, serving

QUICK = StorageRetriesSettings(max_tries=3, initial_backoff_ms=1, max_backoff_ms=2)
MB = 1 << 20


@pytest.fixture
def server() -> Iterator[FakeS3]:
    with serving() as state:
        yield state


def open_s3(server: FakeS3, **settings: Any) -> Storage:
    storage = s3_storage(
        bucket="bucket",
        prefix="root",
        region="us-east-1",
        endpoint_url=server.url,
        allow_http=True,
        force_path_style=True,
        access_key_id="key",
        secret_access_key="secret",
    )
    return storage.with_settings(StorageSettings(**{"retries": QUICK, **settings}))


# ------------------------------------------------------------------------------------------------- conditional writes


@pytest.mark.parametrize("drive", [run, asyncio.run])
def test_a_create_whose_answer_is_lost_has_succeeded(server: FakeS3, drive: Any) -> None:
    storage = open_s3(server)
    server.faults = [("PUT", LOST)]
    version = drive(storage.put("ref", b"mine", only_if=ABSENT))
    assert drive(storage.get("ref")) == (b"mine", version)
    assert server.verbs()[:3] == ["PUT", "PUT", "GET"]


def test_an_update_whose_answer_is_lost_has_succeeded(server: FakeS3) -> None:
    storage = open_s3(server)
    first = run(storage.put("ref", b"1", only_if=ABSENT))
    server.faults = [("PUT", LOST)]
    second = run(storage.put("ref", b"2", only_if=Unchanged(first)))
    run(storage.put("ref", b"3", only_if=Unchanged(second)))
    assert server.objects["root/ref"].data == b"3"


@pytest.mark.parametrize("theirs", [b"theirs", b"mine"])
def test_what_somebody_else_wrote_is_not_ours(server: FakeS3, theirs: bytes) -> None:
    storage = open_s3(server)
    server.objects["root/ref"] = Stored(theirs, {"x-amz-meta-icechunkwriteid": "of somebody else"})
    server.faults = [("PUT", DROPPED)]
    with pytest.raises(PreconditionFailedError):
        run(storage.put("ref", b"mine", only_if=ABSENT))
    assert server.objects["root/ref"].data == theirs


def test_every_conditional_write_has_an_id_of_its_own(server: FakeS3) -> None:
    storage = open_s3(server)
    version = run(storage.put("ref", b"1", only_if=ABSENT))
    run(storage.put("ref", b"2", only_if=Unchanged(version)))
    run(storage.put("chunks/A", b"3"))
    ids = [asked.headers.get("x-amz-meta-icechunkwriteid") for asked in server.asked]
    assert ids[0] and ids[1] and ids[0] != ids[1]
    assert ids[2] is None


def test_etags_go_out_without_quotes(server: FakeS3) -> None:
    storage = open_s3(server)
    version = run(storage.put("ref", b"1"))
    run(storage.put("ref", b"2", only_if=Unchanged(version)))
    assert version.etag is not None and version.etag.startswith('"')
    assert server.asked[-1].headers["if-match"] == version.etag.strip('"')


def test_a_store_without_conditional_writes(server: FakeS3) -> None:
    server.faults = [("PUT", 501)] * 3
    with pytest.raises(StorageError, match="unsafe_use_conditional_create"):
        run(open_s3(server).put("ref", b"1", only_if=ABSENT))
    server.faults = []
    unsafe = open_s3(server, unsafe_use_conditional_create=False, unsafe_use_conditional_update=False)
    assert not unsafe.keeps_conditions
    version = run(unsafe.put("ref", b"1", only_if=ABSENT))
    run(unsafe.put("ref", b"2", only_if=ABSENT))
    run(unsafe.put("ref", b"3", only_if=Unchanged(version)))
    assert not [asked for asked in server.asked[-3:] if "if-match" in asked.headers or "if-none-match" in asked.headers]
    assert server.objects["root/ref"].data == b"3"


def test_conditions_are_certain_where_the_service_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    amazon = icechunk.s3_storage(bucket="b", prefix="p", region="us-east-1", anonymous=True)
    assert amazon.keeps_conditions
    assert not amazon.with_settings(StorageSettings(unsafe_use_conditional_update=False)).keeps_conditions
    elsewhere = icechunk.s3_storage(bucket="b", prefix="p", region="r", endpoint_url="https://s3.example.org")
    assert not elsewhere.keeps_conditions
    for known in ("https://s3.eu-west-1.amazonaws.com", "https://account.r2.cloudflarestorage.com"):
        assert icechunk.s3_storage(bucket="b", prefix="p", region="r", endpoint_url=known).keeps_conditions
    for unknown in ("https://amazonaws.com.example.org", "http://[::1]:9000", "nonsense"):
        assert not icechunk.s3_storage(bucket="b", prefix="p", region="r", endpoint_url=unknown).keeps_conditions
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:9000")
    assert not amazon.keeps_conditions


def test_unchanged_objects_are_not_sent_again(server: FakeS3) -> None:
    storage = open_s3(server)
    version = run(storage.put("repo", b"x" * 1000))
    assert run(storage.get_if_changed("repo", version)) is None
    assert server.asked[-1].headers["if-none-match"] == version.etag


# ------------------------------------------------------------------------------------------------ what goes with a write


def test_attributes(server: FakeS3) -> None:
    storage = open_s3(server, metadata_storage_class="STANDARD_IA", chunks_storage_class="GLACIER_IR")
    run(storage.put("snapshots/A", b"1", content_type="application/json", metadata={"ic_spec_ver": "2"}))
    run(storage.put("chunks/B", b"2"))
    first, second = (asked.headers for asked in server.asked)
    assert first["content-type"] == "application/json"
    assert first["x-amz-meta-ic_spec_ver"] == "2"
    assert (first["x-amz-storage-class"], second["x-amz-storage-class"]) == ("STANDARD_IA", "GLACIER_IR")


def test_without_metadata(server: FakeS3) -> None:
    storage = open_s3(server, unsafe_use_metadata=False)
    run(storage.put("ref", b"1", only_if=ABSENT, metadata={"ic_spec_ver": "2"}))
    assert not [name for name in server.asked[0].headers if name.startswith("x-amz-meta-")]


def test_headers_for_reading_and_writing(server: FakeS3) -> None:
    storage = s3_storage(
        bucket="bucket",
        prefix="root",
        region="us-east-1",
        endpoint_url=server.url,
        allow_http=True,
        force_path_style=True,
        anonymous=True,
        headers={"x-all": "1"},
        read_headers={"x-read": "2"},
        write_headers={"x-write": "3"},
    )
    run(storage.put("a", b""))
    run(storage.get("a"))
    writing, reading = (asked.headers for asked in server.asked)
    assert (writing.get("x-all"), writing.get("x-read"), writing.get("x-write")) == ("1", None, "3")
    assert (reading.get("x-all"), reading.get("x-read"), reading.get("x-write")) == ("1", "2", None)
    assert "authorization" not in reading


def test_big_objects_go_up_in_parts(server: FakeS3) -> None:
    storage = open_s3(
        server, minimum_size_for_multipart_upload=8 * MB, concurrency=StorageConcurrencySettings(4, 5 * MB)
    )
    data = bytes(range(256)) * (12 << 12)
    version = run(storage.put("chunks/A", data))
    assert server.objects["root/chunks/A"].data == data
    parts = [asked for asked in server.asked if "partNumber" in asked.query]
    assert len(parts) == 3
    assert not version.is_known, "this server tells no etag after an upload in parts"
    run(storage.put("ref", data, only_if=ABSENT))
    assert server.asked[-1].query.keys() == {"x-id"} or not server.asked[-1].query, "conditions need a single request"


# ---------------------------------------------------------------------------------------------------------------- reads


@pytest.mark.parametrize("drive", [run, asyncio.run])
@pytest.mark.parametrize("byte_range", [None, ByteRange(0, MB * 5), ByteRange(MB // 2, MB * 4)], ids=str)
def test_big_objects_come_in_pieces_at_once(server: FakeS3, drive: Any, byte_range: ByteRange | None) -> None:
    data = os.urandom(5 * MB)
    server.objects["root/chunks/A"] = Stored(data, {})
    storage = open_s3(server, concurrency=StorageConcurrencySettings(3, MB))

    async def scenario() -> None:
        expected = data if byte_range is None else data[byte_range.start : byte_range.stop]
        assert await read(storage, "chunks/A", byte_range) == expected

    drive(scenario())
    ranges = [asked.headers["range"] for asked in server.asked if "range" in asked.headers]
    assert len(ranges) == len(set(ranges)) == (5 if byte_range == ByteRange(0, MB * 5) else 4)


def test_a_big_range_past_the_end(server: FakeS3) -> None:
    server.objects["root/A"] = Stored(b"x" * 3 * MB, {})
    storage = open_s3(server, concurrency=StorageConcurrencySettings(3, MB))
    assert len(run(read(storage, "A", ByteRange(MB, 10 * MB)))) == 2 * MB
    assert run(read(storage, "A", ByteRange(4 * MB, 10 * MB))) == b""


def test_an_object_replaced_while_it_is_read(server: FakeS3) -> None:
    class Changing(dict[str, Stored]):
        asked = 0

        def get(self, key: str, default: Any = None) -> Any:
            self.asked += 1
            return Stored(bytes([self.asked]) * 3 * MB, {})

    server.objects = Changing()
    with pytest.raises(StorageError, match="replaced while it was read"):
        run(open_s3(server, concurrency=StorageConcurrencySettings(2, MB)).get("A"))


# -------------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("fault", [500, 503, DROPPED])
def test_passing_failures_are_not_noticed(server: FakeS3, fault: int | str) -> None:
    storage = open_s3(server)
    server.objects["root/a"] = Stored(b"x", {})
    server.faults = [("GET", fault), ("GET", fault)]
    assert run(read(storage, "a")) == b"x"


@pytest.mark.parametrize("drive", [run, asyncio.run], ids=["blocking", "event loop"])
@pytest.mark.parametrize("fault", [500, 503, DROPPED, CUT])
def test_passing_failures_of_ranges_are_not_noticed(server: FakeS3, fault: int | str, drive: Any) -> None:
    storage = open_s3(server)
    server.objects["root/a"] = Stored(b"0123456789" * 1000, {})
    server.faults = [("GET", fault), ("GET", fault)]
    assert drive(read(storage, "a", ByteRange(5, 8000))) == (b"0123456789" * 1000)[5:8000]


def test_a_range_is_one_request(server: FakeS3) -> None:
    storage = open_s3(server)
    server.objects["root/a"] = Stored(b"0123456789", {})
    assert run(read(storage, "a", ByteRange(2, 5))) == b"234"
    assert run(read(storage, "a", ByteRange(8, 50))) == b"89"
    assert server.verbs() == ["GET", "GET"]


def test_tries_are_bounded(server: FakeS3) -> None:
    server.faults = [("GET", 503)] * 100
    with pytest.raises(StorageError) as caught:
        run(open_s3(server).get("a"))
    assert caught.value.kind == ErrorKind.THROTTLED
    assert len(server.asked) == 3


def test_forbidden(server: FakeS3) -> None:
    server.faults = [("GET", 403)]
    with pytest.raises(StorageError, match="check the credentials") as caught:
        run(open_s3(server).get("a"))
    assert caught.value.kind == ErrorKind.INVALID_CREDENTIALS


def test_keys_that_cannot_be_named(server: FakeS3) -> None:
    with pytest.raises(InvalidInputError):
        run(open_s3(server).get("refs/branch.new\nline/ref.json"))


def test_a_bulk_delete_that_fails_is_done_one_by_one(server: FakeS3) -> None:
    for name in "abc":
        server.objects[f"root/{name}"] = Stored(b"", {})
    server.faults = [("POST", 400), ("DELETE", 200), ("DELETE", 403)]
    result = run(open_s3(server).delete(["a", "b", "c"]))
    assert result.deleted == 2
    assert len(result.failed) == 1


def test_a_delete_of_many_gives_up_soon_when_nothing_works(server: FakeS3) -> None:
    server.faults = [("POST", 400), ("DELETE", 403)]
    result = run(open_s3(server).delete([f"{number}" for number in range(500)]))
    assert (result.deleted, len(result.failed)) == (0, 500)
    assert len(server.asked) == 2


def test_foreign_objects_beside_the_prefix_are_not_listed(server: FakeS3) -> None:
    for key in ("root/a", "rootX/b", "other"):
        server.objects[key] = Stored(b"", {})
    assert run(paths_in(open_s3(server))) == ["a"]


def test_texts_hold_no_secrets() -> None:
    text = (
        "GET https://a.blob.core.windows.net/c/x?sv=1&sig=AbC%2Fd&se=2 failed; X-Amz-Signature=123abc&x Debug source: y"
    )
    assert explain(ValueError(text)) == (
        "GET https://a.blob.core.windows.net/c/x?sv=1&sig=****&se=2 failed; X-Amz-Signature=****&x"
    )


def test_a_missing_bucket_is_no_missing_object() -> None:
    found = translate(FileNotFoundError("<Code>NoSuchBucket</Code>"), "a")
    assert isinstance(found, StorageError) and not isinstance(found, ObjectNotFoundError)


def test_plain_http_must_be_allowed(server: FakeS3) -> None:
    storage = s3_storage(
        bucket="b", prefix="p", endpoint_url=server.url, region="r", anonymous=True, force_path_style=True
    ).with_settings(StorageSettings(retries=QUICK))
    with pytest.raises(StorageError, match="allow_http"):
        run(storage.get("a"))


# ------------------------------------------------------------------------------------------------- credentials and places


def renewed() -> S3StaticCredentials:
    calls.append(1)
    return S3StaticCredentials(f"key{len(calls)}", "secret", expires_after=datetime.now(UTC) + timedelta(hours=1))


calls: list[int] = []


def test_refreshable_credentials(server: FakeS3) -> None:
    calls.clear()
    server.objects["root/a"] = Stored(b"x", {})
    storage = s3_storage(
        bucket="bucket",
        prefix="root",
        region="us-east-1",
        endpoint_url=server.url,
        allow_http=True,
        force_path_style=True,
        get_credentials=renewed,
    )
    for _ in range(3):
        run(storage.get("a"))
        asyncio.run(read(storage, "a"))
    assert len(calls) == 1
    assert "Credential=key1/" in server.asked[0].headers["authorization"]
    run(pickle.loads(pickle.dumps(storage)).get("a"))
    assert "Credential=key2/" in server.asked[-1].headers["authorization"]


def test_keys_are_not_mixed_with_the_environment(server: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of somebody else")
    server.objects["root/a"] = Stored(b"x", {})
    run(open_s3(server).get("a"))
    assert "x-amz-security-token" not in server.asked[0].headers


def test_storages_with_other_settings_share_what_they_can(server: FakeS3) -> None:
    storage = open_s3(server)
    assert storage.with_settings(StorageSettings(retries=QUICK)) is storage
    other = storage.with_settings(StorageSettings(retries=StorageRetriesSettings(max_tries=1)))
    assert other.describe() == storage.describe()
    server.faults = [("GET", 500)]
    with pytest.raises(StorageError):
        run(other.get("a"))
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("endpoint", "path_style", "expected"),
    [
        ("http://127.0.0.1:9000", False, ("http://127.0.0.1:9000", False)),
        ("http://localhost:9000/", False, ("http://localhost:9000", False)),
        ("https://t3.storage.dev", False, ("https://bucket.t3.storage.dev", True)),
        ("https://s3.example.org:8443", True, ("https://s3.example.org:8443", False)),
        ("https://s3.hf.co/name", False, ("https://s3.hf.co/name", False)),
        ("http://[::1]:9000", False, ("http://[::1]:9000", False)),
    ],
)
def test_where_the_bucket_goes(endpoint: str, path_style: bool, expected: tuple[str, bool]) -> None:
    assert address(endpoint, "bucket", force_path_style=path_style) == expected
    assert address(endpoint, "with.dots", force_path_style=path_style) == (endpoint.rstrip("/"), False)


def test_web_servers_are_read_only(server: FakeS3) -> None:
    server.objects["root/a"] = Stored(b"0123456789", {})
    storage = http_storage(f"{server.url}/bucket/root")
    assert run(read(storage, "a", ByteRange(2, 4))) == b"23"
    assert run(read(storage, "a")) == b"0123456789"
    assert not run(storage.exists("b"))
    assert storage.read_only
    with pytest.raises(ReadOnlyError):
        run(storage.put("b", b""))
    with pytest.raises(StorageError, match="do not list"):
        run(paths_in(storage))


def test_options_reach_the_clients() -> None:
    # making a client checks them; no request is made
    for storage in (
        gcs_storage(
            bucket="b", prefix="p", bearer_token="t", config={"google_skip_signature": "false", "timeout": "9s"}
        ),
        azure_storage(account="a", container="c", prefix="p", sas_token="sig=x", config={"azure_allow_http": "true"}),
        s3_storage(bucket="b", prefix="p", region="cn-north-1", requester_pays=True, anonymous=True),
    ):
        assert storage._asking.client("read") is storage._asking.client("read")  # type: ignore[attr-defined]
        assert storage._asking.client("upload") is not storage._asking.client("read")  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="nonsense") as caught:
        run(gcs_storage(bucket="b", prefix="p", anonymous=True, config={"nonsense": "1"}).get("a"))
    assert caught.value.kind == ErrorKind.STORAGE_CONFIG
    assert S3Options().force_path_style is False


# --------------------------------------------------------------------------------------------------------------- fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_is_told_not_to_hang(server: FakeS3) -> None:
    storage = open_s3(server)
    server.objects["root/a"] = Stored(b"x", {})
    assert run(read(storage, "a")) == b"x"
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(10)
            run(storage.get("a"))
        except StorageError as error:
            status = 0 if "spawn" in error.message else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert run(read(storage, "a")) == b"x"

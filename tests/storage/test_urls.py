"""URLs taken apart, and made into storages."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

import icechunk
from icechunk._driver import run
from icechunk.errors import ErrorKind, InvalidInputError, StorageError
from icechunk.storage.urls import parse_address, split_version, storage_at


@pytest.mark.parametrize(
    ("url", "kind", "host", "path", "version"),
    [
        ("s3://bucket/a/b", "s3", "bucket", "a/b", None),
        ("s3://bucket/a/b@main", "s3", "bucket", "a/b", "main"),
        ("S3://bucket/a@x/b", "s3", "bucket", "a@x/b", None),
        ("s3://bucket/a@x/", "s3", "bucket", "a@x/", None),
        ("s3://bucket/a@x/@v1", "s3", "bucket", "a@x/", "v1"),
        ("s3://bucket/a@x@v1", "s3", "bucket", "a@x", "v1"),
        ("s3://bucket/a%40x", "s3", "bucket", "a@x", None),
        ("s3://bucket/a%20b%2Fc@dev%2Fx%40y", "s3", "bucket", "a b/c", "dev/x@y"),
        ("s3://bucket@main", "s3", "bucket", "", "main"),
        ("s3://bucket/@branch:main", "s3", "bucket", "", "branch:main"),
        ("gs://bucket/p#1", "gs", "bucket", "p#1", None),
        ("gcs://bucket/p", "gs", "bucket", "p", None),
        ("az://container/p@v1", "az", "container", "p", "v1"),
        ("azure://container/p", "az", "container", "p", None),
        ("abfs://c@acc.dfs.core.windows.net", "az", "c@acc.dfs.core.windows.net", "", None),
        ("abfss://c@acc.dfs.core.windows.net/p@v1", "az", "c@acc.dfs.core.windows.net", "p", "v1"),
        ("r2://bucket/p", "r2", "bucket", "p", None),
        ("tigris://bucket/p", "tigris", "bucket", "p", None),
        ("memory://name", "memory", "name", "", None),
        ("memory://a/b@v1", "memory", "a", "b", "v1"),
        ("https://host/p%20q@v1", "http", "host", "https://host/p%20q", "v1"),
        ("https://user:word@host", "http", "user:word@host", "https://user:word@host", None),
        ("http://user:word@host:80/p", "http", "user:word@host:80", "http://user:word@host:80/p", None),
        ("file:///data/air@v1", "file", "", "/data/air", "v1"),
        ("file://localhost/data/a%20b", "file", "", "/data/a b", None),
        ("air", "file", "", "air", None),
        ("./air@main", "file", "", "./air", "main"),
        ("~/air@main", "file", "", "~/air", "main"),
        ("a%20b@dev%2Fx", "file", "", "a%20b", "dev/x"),
        ("home@here/air", "file", "", "home@here/air", None),
        ("air@home/", "file", "", "air@home/", None),
        ("air@home/@v1", "file", "", "air@home/", "v1"),
    ],
)
def test_taking_apart(url: str, kind: str, host: str, path: str, version: str | None) -> None:
    found = parse_address(url, windows=False)
    assert (found.kind, found.host, found.path, found.version) == (kind, host, path, version)


@pytest.mark.parametrize(
    ("url", "path", "version"),
    [
        ("C:\\data\\air", "C:\\data\\air", None),
        ("C:/data/air@v1", "C:/data/air", "v1"),
        ("C:\\data@home\\air", "C:\\data@home\\air", None),
        ("C:\\data@home\\air@main", "C:\\data@home\\air", "main"),
        ("\\\\server\\share\\air@main", "\\\\server\\share\\air", "main"),
        ("file:///C:/data/air@v1", "C:/data/air", "v1"),
    ],
)
def test_paths_on_windows(url: str, path: str, version: str | None) -> None:
    found = parse_address(url, windows=True)
    assert (found.kind, found.path, found.version) == ("file", path, version)


def test_a_path_object_is_a_path() -> None:
    assert parse_address(Path("a@b")).path == "a@b"
    assert parse_address(Path("a@b")).version is None


def test_parameters() -> None:
    found = parse_address("s3://b/p@main?as_of=2024-05-01T12:00:00+02:00&region=eu%2Dwest-1&anonymous=true")
    assert found.version == "main"
    assert found.parameters == {"as_of": "2024-05-01T12:00:00+02:00", "region": "eu-west-1", "anonymous": "true"}
    assert found.shown == "s3://b/p"
    assert parse_address("https://user:word@host/p@main").shown == "https://****@host/p"
    assert parse_address("air@main?as_of=2024-05-01").parameters == {"as_of": "2024-05-01"}
    assert parse_address("what?").path == "what?", "a path is taken as it is"


def test_what_is_shown_leads_there_unless_there_are_secrets_in_it() -> None:
    def shown(url: str) -> str:
        return parse_address(url).shown

    assert shown("s3://bucket/a%20b@main?region=r") == "s3://bucket/a%20b"
    assert shown("abfss://c@acc.dfs.core.windows.net/p@v1") == "abfss://c@acc.dfs.core.windows.net/p"
    assert shown("https://user:word@host/p@v1") == "https://****@host/p"


def test_the_last_at_of_the_last_part() -> None:
    assert split_version("a@b@c") == ("a@b", "c")
    assert split_version("a@b/c") == ("a@b/c", None)
    assert split_version("a@") == ("a", "")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/p",
        "s3:bucket/p",
        "s3:///p",
        "s3://",
        "s3://key:hush5ecret@bucket/p",
        "s3://key:hush5ecret@bucket",
        "gs://hush5ecret@bucket/p",
        "az://container:hush5ecret@x/p",
        "abfs://c@hush5ecret.example.org/p",
        "s3://b/p?sig=hush5ecret",
        "s3://b/p?hush5ecret",
        "s3://b/p?HUSH=hush5ecret",
        "s3://b/p?secret_access_key=hush5ecret",
        "s3://b/p?region=a&region=hush5ecret",
        "https://host/p?sv=1&sig=hush5ecret",
        "file://server/p",
        "",
        "@main",
    ],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_address(url)
    assert caught.value.kind == ErrorKind.CANNOT_PARSE_URL
    assert "hush5ecret" not in str(caught.value)


def test_wrong_type() -> None:
    with pytest.raises(TypeError):
        parse_address(3)  # type: ignore[arg-type]


# ---- storages


def facts(url: str, **options: Any) -> dict[str, Any]:
    return icechunk.storage_from_url(url, **options).describe()


def test_object_stores() -> None:
    s3 = {"type": "S3", "bucket": "b", "prefix": "p/q"}
    assert facts("s3://b/p/q/") == s3
    assert facts("s3://b/p/q?region=eu-west-1", anonymous=True) == {**s3, "region": "eu-west-1"}
    assert facts("s3://b/p/q?region=eu-west-1", region="us-west-2")["region"] == "us-west-2", "arguments win"
    assert facts("r2://b/p/q?account_id=me")["endpoint_url"] == "https://me.r2.cloudflarestorage.com"
    assert facts("tigris://b/p/q", region="auto")["endpoint_url"] == "https://t3.storage.dev"
    assert facts("gs://b/p", anonymous=True) == {"type": "Google Cloud Storage", "bucket": "b", "prefix": "p"}
    assert facts("https://host/p@x/")["url"] == "https://host/p@x/"


def test_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT", raising=False)
    expected = {"type": "Azure Blob Storage", "account": "acc", "container": "c", "prefix": "p"}
    assert facts("az://c/p", account="acc", access_key="aaaa") == expected
    assert facts("abfss://c@acc.dfs.core.windows.net/p", anonymous=True) == expected
    with pytest.raises(StorageError, match="pass account="):
        facts("az://c/p")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "acc")
    assert facts("azure://c/p") == expected


@pytest.mark.parametrize("factory", ["s3", "r2", "tigris"])
def test_credentials_as_objects_on_s3(factory: str) -> None:
    place = {"s3": "s3://b/p", "r2": "r2://b/p?account_id=me", "tigris": "tigris://b/p?region=auto"}[factory]
    plain = icechunk.storage_from_url(place, access_key_id="a", secret_access_key="s")
    made = icechunk.s3_credentials(access_key_id="a", secret_access_key="s")
    for credentials in (made, icechunk.S3StaticCredentials("a", "s")):
        storage = (
            icechunk.storage_from_url(place, credentials=credentials, force_path_style=True)
            if factory == "s3"
            else (icechunk.storage_from_url(place, credentials=credentials))
        )
        assert storage.describe() == plain.describe()
        assert storage._place.credentials == made  # type: ignore[attr-defined]
    anonymous = icechunk.storage_from_url(place, credentials=icechunk.s3_credentials(anonymous=True))
    assert anonymous._place.options.anonymous  # type: ignore[attr-defined]


def test_credentials_as_objects_elsewhere() -> None:
    gcs, azure = icechunk.gcs_credentials(anonymous=True), icechunk.azure_credentials(anonymous=True)
    assert icechunk.storage_from_url("gs://b/p", credentials=gcs)._place.credentials == gcs  # type: ignore[attr-defined]
    storage = icechunk.storage_from_url("az://c/p", account="a", credentials=azure)
    assert storage._place.credentials == azure  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://b/p", {"anon": True}),
        ("gs://b/p", {"region": "x"}),
        ("gs://b/p?region=x", {}),
        ("air", {"region": "x"}),
        ("memory://x", {"region": "x"}),
        ("s3://b/p", {"credentials": 3}),
        ("s3://b/p", {"credentials": icechunk.gcs_credentials()}),
        ("s3://b/p", {"credentials": icechunk.s3_credentials(), "access_key_id": "a"}),
        ("air", {"credentials": icechunk.s3_credentials()}),
        ("https://host/p", {"credentials": icechunk.s3_credentials()}),
    ],
)
def test_options_that_do_not_fit(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        icechunk.storage_from_url(url, **options)


def test_options_of_the_client() -> None:
    """Their name is not that of a repository's configuration, which is beside them in `icechunk.open`."""
    for url, more in (("gs://b/p", {"anonymous": True}), ("az://c/p", {"account": "a"}), ("https://host/p", {})):
        storage = icechunk.storage_from_url(url, client_options={"timeout": "9s"}, **more)
        assert storage._place.config == {"timeout": "9s"}  # type: ignore[attr-defined]
        for name in ("config", "opts"):
            with pytest.raises(TypeError, match=r"it takes .*client_options"):
                icechunk.storage_from_url(url, **{name: {}}, **more)
    with pytest.raises(TypeError):
        icechunk.storage_from_url("s3://b/p", client_options={})


def test_flags_are_true_or_false() -> None:
    with pytest.raises(InvalidInputError, match="`anonymous` is true or false"):
        icechunk.storage_from_url("s3://b/p?anonymous=perhaps")


def test_a_plain_endpoint_is_meant() -> None:
    storage = icechunk.storage_from_url("s3://b/p", endpoint_url="http://127.0.0.1:9000", anonymous=True)
    assert storage._place.options.allow_http  # type: ignore[attr-defined]
    storage = icechunk.storage_from_url("s3://b/p", endpoint_url="http://127.0.0.1:9000", allow_http=False)
    assert not storage._place.options.allow_http  # type: ignore[attr-defined]


def test_a_storage_has_no_version() -> None:
    for url in ("memory://x@main", "s3://b/p?branch=main", "air@v1"):
        with pytest.raises(InvalidInputError, match=r"leave it out, or use `icechunk\.open`"):
            icechunk.storage_from_url(url)


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for url in (
        "~/air",
        "air",
        "./air",
        tmp_path / "air",
        f"file://{tmp_path}/air",
        f"file://localhost{tmp_path}/%61ir",
    ):
        assert icechunk.storage_from_url(url).describe()["path"] == str(tmp_path / "air")
    odd = tmp_path / "a@b %41"
    assert icechunk.storage_from_url(odd).describe()["path"] == str(odd)
    assert icechunk.storage_from_url("a@b %41/").describe()["path"] == str(odd)


def test_memory_is_found_again_by_name() -> None:
    name = f"memory://test-{os.urandom(4).hex()}"
    first = icechunk.storage_from_url(name)
    run(first.put("a", b"x"))
    assert icechunk.storage_from_url(f"{name}/") is first
    assert icechunk.storage_from_url(f"{name}/deeper") is not first
    assert pickle.loads(pickle.dumps(first)) is first
    with pytest.raises(InvalidInputError):
        icechunk.storage_from_url("memory://")


def test_asking_for_a_place_keeps_options_apart() -> None:
    address = parse_address("s3://b/p@main?anonymous=1&as_of=2024-05-01")
    assert storage_at(address).describe() == {"type": "S3", "bucket": "b", "prefix": "p"}

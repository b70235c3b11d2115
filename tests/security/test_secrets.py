"""Secrets are used and never shown: not in texts of objects, in logs, in errors, nor in tracebacks with their variables."""

from __future__ import annotations

import json
import logging
import pickle
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

import icechunk
from icechunk._driver import run
from icechunk.storage.base import ABSENT, Storage
from tests.storage.fake_s3 import FakeS3, serving

SECRET = "hush5ecret"
"""Every secret here contains this."""
QUICK = icechunk.StorageSettings(retries=icechunk.StorageRetriesSettings(max_tries=1, initial_backoff_ms=1))
NOWHERE = "http://127.0.0.1:9"

Made = Callable[[str], Storage]


def fetch_s3_key() -> icechunk.S3StaticCredentials:
    return icechunk.S3StaticCredentials("id", f"{SECRET}-key", f"{SECRET}-token")


def fetch_gcs_token() -> icechunk.GcsBearerCredential:
    return icechunk.GcsBearerCredential(f"{SECRET}-bearer")


def s3(url: str, **more: Any) -> Storage:
    how = {
        "bucket": "b",
        "prefix": "p",
        "region": "r",
        "endpoint_url": url,
        "allow_http": True,
        "force_path_style": True,
    }
    return icechunk.s3_storage(**{**how, **more})  # type: ignore[arg-type]


def gcs(url: str, **more: Any) -> Storage:
    return icechunk.gcs_storage(bucket="b", prefix="p", config={"google_base_url": url, "allow_http": "true"}, **more)


def azure(url: str, **more: Any) -> Storage:
    config = {"azure_storage_endpoint": f"{url}/account", "azure_allow_http": "true", **more.pop("config", {})}
    return icechunk.azure_storage(account="account", container="c", prefix="p", config=config, **more)


BASE64 = "aHVzaDVlY3JldA=="  # of the secret
HEADERS = {"authorization": f"Bearer {SECRET}", "x-api-key": SECRET}
SERVICE_ACCOUNT = json.dumps(
    {
        "gcs_base_url": "{url}",
        "disable_oauth": True,
        "client_email": "",
        "private_key": SECRET,
        "private_key_id": SECRET,
    }
)
STORAGES: dict[str, Made] = {
    "s3-static": lambda url: s3(
        url, access_key_id="id", secret_access_key=f"{SECRET}-key", session_token=f"{SECRET}-token"
    ),
    "s3-refreshable": lambda url: s3(url, get_credentials=fetch_s3_key),
    "s3-scattered": lambda url: s3(url, get_credentials=fetch_s3_key, scatter_initial_credentials=True),
    "s3-headers": lambda url: s3(url, anonymous=True, headers=HEADERS, read_headers=HEADERS, write_headers=HEADERS),
    "s3-user-in-url": lambda url: s3(url.replace("://", f"://user:{SECRET}@"), anonymous=True),
    "gcs-bearer": lambda url: gcs(url, bearer_token=f"{SECRET}-bearer"),
    "gcs-refreshable": lambda url: gcs(url, get_credentials=fetch_gcs_token, from_env=False),
    "gcs-key": lambda url: gcs(url, service_account_key=SERVICE_ACCOUNT.replace("{url}", url)),
    "gcs-broken-key": lambda url: gcs(url, service_account_key=f"{{{SECRET}}}"),
    "gcs-headers": lambda url: gcs(url, anonymous=True, headers=HEADERS),
    "azure-key": lambda url: azure(url, access_key=BASE64),
    "azure-broken-key": lambda url: azure(url, access_key=f"{SECRET}!!"),
    "azure-sas": lambda url: azure(url, sas_token=f"sv=1&sig={SECRET}"),
    "azure-bearer": lambda url: azure(url, bearer_token=f"{SECRET}-bearer"),
    "azure-config": lambda url: azure(url, anonymous=True, config={"azure_storage_account_key": BASE64}),
    "http-headers": lambda url: icechunk.http_storage(f"{url}/b/p", headers=HEADERS),
    "http-user-in-url": lambda url: icechunk.http_storage(f"{url}/b/p".replace("://", f"://user:{SECRET}@")),
}


@pytest.fixture
def server() -> Iterator[FakeS3]:
    with serving() as state:
        yield state


@pytest.fixture(params=STORAGES)
def make(request: pytest.FixtureRequest) -> Made:
    return STORAGES[request.param]


def hidden(*texts: str) -> None:
    for text in texts:
        assert SECRET not in text, text
        assert BASE64 not in text, text


def everything_about(error: BaseException) -> str:
    """The text of an error, of its causes, and of all variables of all frames of their tracebacks that are ours."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    found = [str(error), repr(error)]
    pending = [told]
    while pending:
        one = pending.pop()
        found.append(str(one))
        for frame in one.stack:
            if "/src/icechunk/" in frame.filename:
                found += [f"{name}={value}" for name, value in (frame.locals or {}).items()]
        pending += [cause for cause in (one.__cause__, one.__context__) if cause is not None]
    return "\n".join(found)


def test_texts_of_storages(make: Made) -> None:
    storage = make(NOWHERE)
    hidden(str(storage), repr(storage), storage._repr_html_(), str(storage.describe()), repr(storage.__dict__))
    hidden(repr(getattr(storage, "_place", None)))


@pytest.mark.parametrize("failure", ["nowhere", "forbidden", "broken", "not xml"])
def test_errors_and_logs(make: Made, failure: str, server: FakeS3, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    storage = make(NOWHERE if failure == "nowhere" else server.url)
    status = {"forbidden": 403, "broken": 500, "not xml": 400}.get(failure, 404)
    server.faults = [(verb, status) for verb in ("GET", "HEAD", "PUT", "POST", "DELETE", "GET")]
    storage = storage.with_settings(QUICK)

    async def listed() -> None:
        async for _ in storage.list():
            pass

    for attempt in (
        lambda: storage.get("a"),
        lambda: storage.put("a", b"x", only_if=ABSENT),
        lambda: storage.delete(["a", "b"]),
        lambda: storage.modified_at("a"),
        listed,
    ):
        try:
            result = run(attempt())  # type: ignore[arg-type]
        except icechunk.IcechunkError as error:
            hidden(everything_about(error))
            hidden(str(pickle.dumps(error)))
        else:
            hidden(str(result))
    hidden(caplog.text, *[str(vars(record)) for record in caplog.records])


@pytest.mark.parametrize("make_it", [icechunk.redirect_storage, icechunk.http_storage])
def test_addresses_that_are_refused(make_it: Callable[[str], Storage]) -> None:
    refused = [f"ftp://user:{SECRET}@host/x", f"user:{SECRET}@host"]
    if make_it is icechunk.redirect_storage:
        refused.append(f"https://user:{SECRET}@host/x")
    for address in refused:
        with pytest.raises(icechunk.StorageError) as caught:
            make_it(address)
        if "://" in address:
            hidden(str(caught.value))


def test_opening_and_examining(make: Made, server: FakeS3) -> None:
    storage = make(NOWHERE).with_settings(QUICK)
    with pytest.raises(icechunk.IcechunkError) as caught:
        icechunk.Repository.open(storage, icechunk.RepositoryConfig(storage=QUICK))
    hidden(everything_about(caught.value))
    report = storage.doctor()
    hidden(str(report), report._repr_html_())


CREDENTIALS: dict[str, Any] = {
    "s3": icechunk.s3_credentials(access_key_id="id", secret_access_key=f"{SECRET}-key", session_token=f"{SECRET}-t"),
    "s3-refreshable": icechunk.s3_refreshable_credentials(fetch_s3_key, scatter_initial_credentials=True),
    "gcs": icechunk.gcs_credentials(bearer_token=SECRET),
    "gcs-key": icechunk.gcs_credentials(service_account_key=SECRET),
    "gcs-refreshable": icechunk.gcs_refreshable_credentials(fetch_gcs_token, scatter_initial_credentials=True),
    "azure": icechunk.azure_credentials(access_key=SECRET),
    "azure-sas": icechunk.azure_credentials(sas_token=f"sig={SECRET}"),
    "azure-fresh": icechunk.AzureRefreshableCredential.SasToken(SECRET, datetime.now(UTC)),
    "static": fetch_s3_key(),
    "bearer": fetch_gcs_token(),
}


@pytest.mark.parametrize("name", CREDENTIALS)
def test_texts_of_credentials(name: str) -> None:
    credentials = CREDENTIALS[name]
    hidden(str(credentials), repr(credentials), f"{credentials}", repr([credentials]))
    if name.partition("-")[0] in ("s3", "gcs", "azure") and name != "azure-fresh":
        wrapped = icechunk.containers_credentials({"s3://b/": credentials})
        hidden(str(wrapped), repr(wrapped))


def test_a_repository_with_virtual_chunks(server: FakeS3, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    prefix, password = "s3://b/", f"https://user:{SECRET}@example.org/data/"
    config = icechunk.RepositoryConfig(storage=QUICK)
    options = {"endpoint_url": server.url, "allow_http": True, "force_path_style": True, "region": "r"}
    config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(prefix, icechunk.s3_store(**options)))
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer(password, icechunk.http_store(headers=HEADERS), name="web")
    )
    key = icechunk.s3_credentials(access_key_id="id", secret_access_key=f"{SECRET}-key")
    storage = icechunk.in_memory_storage()
    icechunk.Repository.create(storage, config)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        repo = icechunk.Repository.open(storage, None, icechunk.containers_credentials({prefix: key}))
    hidden(*[str(one.message) for one in caught])
    assert len(caught) == 1

    import zarr

    session = repo.writable_session("main")
    zarr.create_array(session.store, name="a", shape=(4,), chunks=(1,), dtype="u1", compressors=None)
    signed = f"s3://b/x.bin?X-Amz-Signature={SECRET}&sig={SECRET}"
    places = ["s3://b/x.bin", signed, f"{password}x.bin", f"https://user:{SECRET}@elsewhere.org/x"]
    for number, place in enumerate(places):
        session.store.set_virtual_ref(f"a/c/{number}", place, offset=0, length=1, validate_container=False)
    for place in (places[-1], f"https://:{SECRET}@/x", f"nothing?sig={SECRET}"):
        with pytest.raises(icechunk.IcechunkError) as refused:
            session.store.set_virtual_ref("a/c/0", place, offset=0, length=1)
        hidden(str(refused.value), repr(refused.value))
    session.commit("virtual")
    hidden(str(repo), repr(repo), repo._repr_html_(), str(repo.config), repr(repo.config), repo.config._repr_html_())
    reading = repo.readonly_session("main")
    hidden(str(reading), reading._repr_html_(), str(reading.store), reading.store._repr_html_())
    server.faults = [("GET", 403)]
    for number in range(4):
        with pytest.raises(icechunk.IcechunkError) as failed:
            run(reading._workspace.get(f"a/c/{number}"))
        hidden(str(failed.value), repr(failed.value))
    report = repo.check_virtual_access()
    hidden(str(report), report._repr_html_())
    hidden(caplog.text)


def test_what_functions_that_fetch_credentials_say_is_theirs(server: FakeS3) -> None:
    """A function that fails is quoted by its class only where its text may hold what it was about to return."""
    storage = s3(server.url, get_credentials=_failing).with_settings(QUICK)
    with pytest.raises(icechunk.StorageError, match="vault is sealed") as caught:
        run(storage.get("a"))
    assert caught.value.kind == icechunk.ErrorKind.INVALID_CREDENTIALS or "vault" in caught.value.message


def _failing() -> icechunk.S3StaticCredentials:
    raise RuntimeError("the vault is sealed")


def test_debug_info_shows_no_environment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    icechunk.print_debug_info()
    hidden(capsys.readouterr().out)


def test_the_environment_stays_where_it_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRET)
    storage = s3(NOWHERE, from_env=True).with_settings(QUICK)
    with pytest.raises(icechunk.StorageError) as caught:
        run(storage.get("a"))
    hidden(everything_about(caught.value), repr(storage), caplog.text)
    assert SECRET.encode() not in pickle.dumps(storage), "what the environment has is not taken along"

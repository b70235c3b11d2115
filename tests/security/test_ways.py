"""Nothing that somebody stored with a repository, and no web server, sends a reader's secrets where they do not belong."""

from __future__ import annotations

import contextlib
import http.server
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import zarr

import icechunk
from icechunk._driver import run
from icechunk.credentials import AzureCredentials, Credentials, GcsCredentials
from icechunk.storage.redirect import storage_at
from icechunk.virtual_access import VirtualPolicy, leads_elsewhere
from icechunk.virtual_types import ObjectStoreConfig

SECRET = "very-secret-token"
BEARER = {
    "gs": Credentials.Gcs(icechunk.gcs_credentials(bearer_token=SECRET)),
    "az": Credentials.Azure(icechunk.azure_credentials(bearer_token=SECRET)),
}
ANONYMOUS = {"gs": Credentials.Gcs(GcsCredentials.Anonymous()), "az": Credentials.Azure(AzureCredentials.Anonymous())}


class Listener(http.server.BaseHTTPRequestHandler):
    """Answers every request with ten bytes and keeps what it was sent; or sends on, to `onto`."""

    heard: list[str]
    onto: str | None = None

    def do_GET(self) -> None:
        self.heard.append(f"{self.path} {self.headers}")
        if self.onto is not None:
            self.send_response(302)
            self.send_header("location", self.onto + self.path)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        self.send_response(206 if "range" in self.headers else 200)
        if "range" in self.headers:
            self.send_header("content-range", "bytes 0-9/10")
        for name, value in (
            ("content-length", "10"),
            ("etag", '"x"'),
            ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"0123456789")

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def listening(onto: str | None = None) -> Iterator[tuple[str, list[str]]]:
    heard: list[str] = []
    handler = type("Bound", (Listener,), {"heard": heard, "onto": onto})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", heard
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("store", "option"),
    [
        (ObjectStoreConfig.Gcs({"google_base_url": "https://evil.example"}), "google_base_url"),
        (ObjectStoreConfig.Gcs({"base_url": "https://storage.googleapis.com.evil.example"}), "base_url"),
        (ObjectStoreConfig.Gcs({"base_url": "https://storage.googleapis.com@evil.example"}), "base_url"),
        (ObjectStoreConfig.Gcs({"base_url": "https://evil.example\\.googleapis.com"}), "base_url"),
        (ObjectStoreConfig.Gcs({"base_url": "http://storage.googleapis.com"}), "base_url"),
        (ObjectStoreConfig.Gcs({"proxy_url": "http://evil.example"}), "proxy_url"),
        (ObjectStoreConfig.Gcs({"allow_invalid_certificates": "true"}), "allow_invalid_certificates"),
        (ObjectStoreConfig.Gcs({"service_account": "/home/me/key.json"}), "service_account"),
        (
            ObjectStoreConfig.Azure({"account": "a", "azure_storage_endpoint": "https://evil.example"}),
            "azure_storage_endpoint",
        ),
        (
            ObjectStoreConfig.Azure({"account": "a", "azure_authority_host": "https://evil.example"}),
            "azure_authority_host",
        ),
        (ObjectStoreConfig.Azure({"account": "a", "AZURE_MSI_ENDPOINT": "http://10.0.0.1"}), "AZURE_MSI_ENDPOINT"),
        (ObjectStoreConfig.Gcs({}), None),
        (ObjectStoreConfig.Gcs(None), None),
        (ObjectStoreConfig.Gcs({"base_url": "https://storage.googleapis.com", "timeout": "5s"}), None),
        (ObjectStoreConfig.Gcs({"base_url": "http://127.0.0.1:4443", "allow_http": "true"}), None),
        (ObjectStoreConfig.Azure({"account": "a", "endpoint": "https://a.blob.core.usgovcloudapi.net"}), None),
        (icechunk.s3_store(endpoint_url="https://minio.example"), None),  # signatures tell nothing
    ],
)
def test_options_that_lead_elsewhere(store: Any, option: str | None) -> None:
    kind = "az" if isinstance(store, ObjectStoreConfig.Azure) else "gs"
    assert leads_elsewhere(store, BEARER[kind]) == option
    assert leads_elsewhere(store, None) == option, "the environment has secrets too"
    assert leads_elsewhere(store, ANONYMOUS[kind]) is None


def made_by_somebody(scheme: str, url: str) -> tuple[icechunk.Storage, icechunk.RepositoryConfig, str]:
    """A repository with a virtual chunk, whose container is stored with an address of its maker's choice."""
    prefix = f"{scheme}://bucket/"
    options = {
        "gs": ObjectStoreConfig.Gcs({"google_base_url": url, "allow_http": "true"}),
        "az": ObjectStoreConfig.Azure({"account": "a", "azure_storage_endpoint": url, "azure_allow_http": "true"}),
    }
    config = icechunk.RepositoryConfig.default()
    config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(prefix, options[scheme]))
    storage = icechunk.in_memory_storage()
    repo = icechunk.Repository.create(storage, config)
    with repo.transaction("main", message="virtual") as store:
        zarr.create_array(store, name="a", shape=(10,), chunks=(10,), dtype="u1", compressors=None)
        store.set_virtual_ref("a/c/0", f"{prefix}x", offset=0, length=10)
    return storage, config, prefix


def read(repo: icechunk.Repository) -> bytes:
    return bytes(zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")[:])


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_tokens_do_not_go_to_an_address_that_is_stored_with_the_repository(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening() as (url, heard):
        storage, config, prefix = made_by_somebody(scheme, url)
        authorized = {prefix: BEARER[scheme]}
        monkeypatch.setattr("icechunk.virtual_access._is_address_of", lambda *_: False)  # as if it were far away
        repo = icechunk.Repository.open(storage, authorize_virtual_chunk_access=authorized)
        for opened in (repo, pickle.loads(pickle.dumps(repo)), repo.reopen()):
            with pytest.raises(icechunk.IcechunkError, match="your credentials would be sent to another place"):
                read(opened)
        assert not repo.check_virtual_access().ok
        assert heard == []
        # who gives the container knows where it is; who sends no secret has none to lose
        for trusting in (
            icechunk.Repository.open(storage, config, authorized),
            repo.reopen(config),
            pickle.loads(pickle.dumps(repo.reopen(config))),
            repo.reopen(config).reopen(),
        ):
            heard.clear()
            assert read(trusting) == b"0123456789"
            assert SECRET in "".join(heard)
        heard.clear()
        repo = icechunk.Repository.open(storage, authorize_virtual_chunk_access={prefix: ANONYMOUS[scheme]})
        assert read(repo) == b"0123456789"
        assert heard and SECRET not in "".join(heard)


def test_who_creates_a_repository_knows_its_containers() -> None:
    config = icechunk.RepositoryConfig.default()
    container = icechunk.VirtualChunkContainer("gs://b/", ObjectStoreConfig.Gcs({"base_url": "https://my.example"}))
    config.set_virtual_chunk_container(container)
    policy = VirtualPolicy().with_given(config)
    policy.check_way(container, BEARER["gs"])
    other = icechunk.VirtualChunkContainer("gs://b/", ObjectStoreConfig.Gcs({"base_url": "https://other.example"}))
    with pytest.raises(icechunk.IcechunkError, match="base_url"):
        policy.check_way(other, BEARER["gs"])


@pytest.mark.parametrize(
    "make",
    [
        lambda url: icechunk.s3_storage(
            bucket="b", prefix="p", region="us-east-1", endpoint_url=url, allow_http=True, force_path_style=True,
            access_key_id="key", secret_access_key=SECRET,
        ),
        lambda url: icechunk.gcs_storage(
            bucket="b", prefix="p", bearer_token=SECRET, config={"google_base_url": url, "allow_http": "true"}
        ),
        lambda url: icechunk.azure_storage(
            account="a", container="c", prefix="p", bearer_token=SECRET,
            config={"azure_storage_endpoint": url, "azure_allow_http": "true"},
        ),
        lambda url: icechunk.http_storage(url, {"allow_http": "true"}, {"Authorization": f"Bearer {SECRET}"}),
        lambda url: icechunk.http_storage(url, {"allow_http": "true"}, {"Cookie": f"session={SECRET}"}),
    ],
    ids=["s3", "gcs", "azure", "authorization", "cookie"],
)  # fmt: skip
def test_a_redirect_to_another_host_takes_no_credentials_along(make: Any) -> None:
    with listening() as (elsewhere, heard), listening(elsewhere) as (url, first):
        run(make(url).get("a"))
        assert "authorization:" in first[0].lower() or "cookie:" in first[0].lower()
        assert len(heard) == 1
        assert SECRET not in heard[0] and "authorization:" not in heard[0].lower()


@pytest.mark.parametrize("name", ["evil.example/?", "x#", "a@evil.example", "a\\b", "", "é"])
def test_names_that_are_put_into_host_names_cannot_change_the_host(name: str) -> None:
    with pytest.raises(icechunk.IcechunkError):
        run(icechunk.s3_storage(bucket="b", prefix="p", region=name or "?", anonymous=True).get("a"))
    for url in (f"s3://bucket/p?region={name}", f"tigris://bucket/p?region={name}", f"r2://bucket/p?account_id={name}"):
        with pytest.raises(icechunk.StorageError, match="Redirect Storage error"):
            storage_at(url.replace("#", "%23"))

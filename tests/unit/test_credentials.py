"""Credentials: which way of getting them the arguments mean, what travels, and what is never shown."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

import icechunk.credentials
from icechunk.credentials import (
    AnyAzureCredential,
    AnyCredential,
    AnyGcsCredential,
    AnyS3Credential,
    AzureCredentials,
    AzureRefreshableCredential,
    AzureStaticCredentials,
    Credentials,
    GcsBearerCredential,
    GcsCredentials,
    GcsStaticCredentials,
    HttpAccess,
    LocalFileSystemAccess,
    Refresher,
    S3Credentials,
    S3StaticCredentials,
    azure_anonymous_credentials,
    azure_credentials,
    azure_from_env_credentials,
    azure_refreshable_credentials,
    azure_static_credentials,
    check_authorization,
    containers_credentials,
    gcs_anonymous_credentials,
    gcs_credentials,
    gcs_from_env_credentials,
    gcs_refreshable_credentials,
    gcs_static_credentials,
    s3_anonymous_credentials,
    s3_credentials,
    s3_from_env_credentials,
    s3_refreshable_credentials,
    s3_static_credentials,
)
from icechunk.errors import ErrorKind, StorageError

LATER = datetime(2100, 1, 1, tzinfo=UTC)
KEY = S3StaticCredentials("id", "hush-hush")


def fetch_key() -> S3StaticCredentials:
    return KEY


def fetch_token() -> GcsBearerCredential:
    return GcsBearerCredential("hush-hush")


def fetch_sas() -> AzureRefreshableCredential.SasToken:
    return AzureRefreshableCredential.SasToken("hush-hush", LATER)


def fail() -> S3StaticCredentials:
    raise OSError("no luck")


def fetch_wrong() -> Any:
    return 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, S3Credentials.FromEnv()),
        ({"from_env": True}, S3Credentials.FromEnv()),
        ({"anonymous": False}, S3Credentials.FromEnv()),
        ({"scatter_initial_credentials": True}, S3Credentials.FromEnv()),
        ({"anonymous": True}, S3Credentials.Anonymous()),
        ({"access_key_id": "id", "secret_access_key": "hush-hush"}, S3Credentials.Static(KEY)),
        ({"access_key_id": "id", "secret_access_key": "hush-hush", "from_env": False}, S3Credentials.Static(KEY)),
        (
            {"access_key_id": "a", "secret_access_key": "b", "session_token": "c", "expires_after": LATER},
            S3Credentials.Static(S3StaticCredentials("a", "b", "c", LATER)),
        ),
        ({"get_credentials": fetch_key}, S3Credentials.Refreshable(pickle.dumps(fetch_key), None)),
        (
            {"get_credentials": fetch_key, "from_env": False, "scatter_initial_credentials": True},
            S3Credentials.Refreshable(pickle.dumps(fetch_key), KEY),
        ),
    ],
)
def test_s3(arguments: dict[str, Any], expected: S3Credentials) -> None:
    found = s3_credentials(**arguments)
    assert found == expected
    assert isinstance(found, AnyS3Credential)


@pytest.mark.parametrize(
    "arguments",
    [
        {"from_env": False},
        {"anonymous": True, "from_env": True},
        {"access_key_id": "a"},
        {"secret_access_key": "a"},
        {"session_token": "a"},
        {"expires_after": LATER},
        {"access_key_id": "a", "secret_access_key": "b", "from_env": True},
        {"access_key_id": "a", "secret_access_key": "b", "anonymous": True},
        {"get_credentials": fetch_key, "from_env": True},
        {"get_credentials": fetch_key, "anonymous": True},
        {"get_credentials": fetch_key, "access_key_id": "a"},
    ],
)
def test_s3_contradictions(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Conflicting arguments to s3_credentials"):
        s3_credentials(**arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, GcsCredentials.FromEnv()),
        ({"anonymous": True}, GcsCredentials.Anonymous()),
        ({"anonymous": True, "bearer_token": "x"}, GcsCredentials.Anonymous()),
        ({"bearer_token": "x"}, GcsCredentials.Static(GcsStaticCredentials.BearerToken("x"))),
        (
            {"bearer_token": "x", "service_account_file": "f"},
            GcsCredentials.Static(GcsStaticCredentials.ServiceAccount("f")),
        ),
        ({"service_account_key": "{}"}, GcsCredentials.Static(GcsStaticCredentials.ServiceAccountKey("{}"))),
        ({"application_credentials": "f"}, GcsCredentials.Static(GcsStaticCredentials.ApplicationCredentials("f"))),
        ({"get_credentials": fetch_token}, GcsCredentials.Refreshable(pickle.dumps(fetch_token), None)),
        (
            {"get_credentials": fetch_token, "from_env": False},
            GcsCredentials.Refreshable(pickle.dumps(fetch_token), None),
        ),
    ],
)
def test_gcs(arguments: dict[str, Any], expected: GcsCredentials) -> None:
    found = gcs_credentials(**arguments)
    assert found == expected
    assert isinstance(found, AnyGcsCredential)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, AzureCredentials.FromEnv()),
        ({"anonymous": True}, AzureCredentials.Anonymous()),
        ({"access_key": "x"}, AzureCredentials.Static(AzureStaticCredentials.AccessKey("x"))),
        ({"sas_token": "x"}, AzureCredentials.Static(AzureStaticCredentials.SasToken("x"))),
        ({"bearer_token": "x"}, AzureCredentials.Static(AzureStaticCredentials.BearerToken("x"))),
        ({"get_credentials": fetch_sas}, AzureCredentials.Refreshable(pickle.dumps(fetch_sas), None)),
    ],
)
def test_azure(arguments: dict[str, Any], expected: AzureCredentials) -> None:
    found = azure_credentials(**arguments)
    assert found == expected
    assert isinstance(found, AnyAzureCredential)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (gcs_credentials, {"from_env": False}),
        (gcs_credentials, {"from_env": True, "bearer_token": "x"}),
        (gcs_credentials, {"from_env": True, "get_credentials": fetch_token}),
        (gcs_static_credentials, {}),
        (azure_credentials, {"from_env": False}),
        (azure_credentials, {"from_env": True, "access_key": "x"}),
        (azure_credentials, {"access_key": "x", "sas_token": "y"}),
        (azure_static_credentials, {}),
        (azure_static_credentials, {"access_key": "x", "bearer_token": "y"}),
    ],
)
def test_other_contradictions(make: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Conflicting arguments"):
        make(**arguments)


@pytest.mark.parametrize(
    "make",
    [
        lambda: s3_static_credentials(access_key_id="a", secret_access_key="b", expires_after=datetime(2030, 1, 1)),
        lambda: S3StaticCredentials(1, "b"),  # type: ignore[arg-type]
        lambda: S3StaticCredentials("a"),  # type: ignore[call-arg]
        lambda: setattr(S3StaticCredentials("a", "b"), "secret_access_key", None),
        lambda: S3Credentials.Static("a"),  # type: ignore[arg-type]
        lambda: S3Credentials.Refreshable(3, None),  # type: ignore[arg-type]
        lambda: S3Credentials.Refreshable(b"", GcsBearerCredential("x")),  # type: ignore[arg-type]
        lambda: GcsBearerCredential("a", LATER),  # type: ignore[misc]
        lambda: GcsStaticCredentials.BearerToken(GcsBearerCredential("b")),  # type: ignore[arg-type]
        lambda: AzureRefreshableCredential.AccessKey("k"),  # type: ignore[call-arg]
        lambda: AzureRefreshableCredential.AccessKey("k", datetime(2030, 1, 1)),
        lambda: Credentials.S3(GcsCredentials.FromEnv()),  # type: ignore[arg-type]
        lambda: Credentials(),
    ],
)
def test_wrong_types(make: Any) -> None:
    with pytest.raises(TypeError) as raised:
        make()
    assert "hush" not in str(raised.value)


def test_fields_of_a_key() -> None:
    key = S3StaticCredentials("a", "b")
    key.session_token = "c"
    key.expires_after = datetime(2030, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert key == S3StaticCredentials("a", "b", "c", datetime(2030, 1, 1, tzinfo=UTC))
    assert key.expires_after.tzinfo is UTC
    with pytest.raises(AttributeError):
        key.secret = "x"  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        GcsBearerCredential("a").bearer = "b"


def everything() -> list[Any]:
    """One of each, all with the same secret."""
    secret = "hush-hush"
    s3 = s3_static_credentials(access_key_id="hush-hush", secret_access_key=secret, session_token=secret)
    return [
        *(
            s3,
            s3._0,
            s3_from_env_credentials(),
            s3_anonymous_credentials(),
            s3_refreshable_credentials(fetch_key, True),
        ),
        *(GcsBearerCredential(secret), gcs_from_env_credentials(), gcs_anonymous_credentials()),
        GcsCredentials.Static(gcs_static_credentials(bearer_token=secret)),
        gcs_refreshable_credentials(fetch_token, True),
        *(azure_from_env_credentials(), azure_anonymous_credentials(), azure_refreshable_credentials(fetch_sas, True)),
        azure_static_credentials(access_key=secret),
        AzureCredentials.Static(azure_static_credentials(sas_token=secret)),
        AzureRefreshableCredential.AccessKey(secret, LATER),
        *(Credentials.S3(s3), LocalFileSystemAccess, HttpAccess),
    ]


@pytest.mark.parametrize("credentials", everything(), ids=lambda item: type(item).__qualname__)
def test_nothing_shows_a_secret_and_everything_travels(credentials: Any) -> None:
    for shown in (repr(credentials), str(credentials), getattr(credentials, "_repr_html_", str)()):
        assert "hush-hush" not in shown
    assert pickle.loads(pickle.dumps(credentials)) == credentials
    assert copy.deepcopy(credentials) == credentials


def test_functions_must_be_picklable() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        s3_credentials(get_credentials=lambda: KEY)


def test_containers() -> None:
    s3, gcs, azure = s3_anonymous_credentials(), gcs_from_env_credentials(), azure_from_env_credentials()
    made = containers_credentials({"s3://a/": s3, "gs://b/": gcs, "az://c/": azure, "file:///d/": None})
    assert made == {
        "s3://a/": Credentials.S3(s3),
        "gs://b/": Credentials.Gcs(gcs),
        "az://c/": Credentials.Azure(azure),
        "file:///d/": None,
    }
    assert containers_credentials(made) == made
    assert isinstance(made["s3://a/"], AnyCredential)
    assert containers_credentials({"a": HttpAccess, "b": LocalFileSystemAccess})["a"] == Credentials.HttpAccess()
    for wrong in (3, "secret", KEY, GcsStaticCredentials.BearerToken("x")):
        with pytest.raises(ValueError, match="Unknown credential type"):
            containers_credentials({"a": wrong})  # type: ignore[dict-item]


def test_authorization_is_checked() -> None:
    s3 = s3_anonymous_credentials()
    given = {"s3://a/": Credentials.S3(s3), "s3://b/": None, "s3://c/": s3}
    assert check_authorization(given) == {
        "s3://a/": Credentials.S3(s3),
        "s3://b/": None,
        "s3://c/": Credentials.S3(s3),
    }
    for wrong in ({"s3://a/": 3}, {"s3://a/": "key"}, {3: None}, ["s3://a/"], s3):
        with pytest.raises(TypeError):
            check_authorization(wrong)  # type: ignore[arg-type]


def test_names() -> None:
    assert all(hasattr(icechunk.credentials, name) for name in icechunk.credentials.__all__)
    assert S3Credentials.Static.__name__ == "Static"
    assert issubclass(S3Credentials.Static, S3Credentials)
    match s3_credentials(access_key_id="a", secret_access_key="b"):
        case S3Credentials.Static(S3StaticCredentials() as key):
            assert key.access_key_id == "a"
        case _:
            pytest.fail("no match")


# ---------------------------------------------------------------------------------------------------------- refreshing


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.time = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


calls: list[datetime] = []
clock = Clock()


def fetch_for_an_hour() -> S3StaticCredentials:
    calls.append(clock())
    return S3StaticCredentials("a", str(len(calls)), expires_after=clock() + timedelta(hours=1))


def test_credentials_are_fetched_when_they_have_expired() -> None:
    calls.clear()
    refresher = Refresher(s3_refreshable_credentials(fetch_for_an_hour), timedelta(minutes=5), clock)
    assert calls == []
    assert refresher.get().secret_access_key == "1"
    clock.time += timedelta(minutes=54)
    assert refresher.get().secret_access_key == "1"
    clock.time += timedelta(minutes=1)
    assert refresher.get().secret_access_key == "2"
    assert len(calls) == 2


def test_scattered_credentials_are_used_first() -> None:
    calls.clear()
    credentials = s3_refreshable_credentials(fetch_for_an_hour, scatter_initial_credentials=True)
    for _ in range(3):
        assert Refresher(pickle.loads(pickle.dumps(credentials)), now=clock).get().secret_access_key == "1"
    clock.time += timedelta(hours=1)
    assert Refresher(credentials, now=clock).get().secret_access_key == "2"


def test_credentials_without_an_end_are_fetched_once() -> None:
    refresher = Refresher(gcs_refreshable_credentials(fetch_token))
    assert refresher.get() is refresher.get()
    assert Refresher(azure_refreshable_credentials(fetch_sas)).get().token == "hush-hush"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fail, "failed: OSError: no luck"),
        (fetch_wrong, "must return S3StaticCredentials, not int"),
        (fetch_token, "not"),
    ],
)
def test_functions_that_fail(function: Any, message: str) -> None:
    with pytest.raises(StorageError, match=message) as raised:
        Refresher(s3_refreshable_credentials(function)).get()
    assert raised.value.kind == ErrorKind.INVALID_CREDENTIALS

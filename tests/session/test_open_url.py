"""Opening by URL: which version is meant, what is made, and what errors say."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import icechunk
from icechunk.errors import (
    ErrorKind,
    IcechunkError,
    InvalidInputError,
    ReadOnlyError,
    RefNotFoundError,
    RepositoryNotFoundError,
    SnapshotNotFoundError,
)
from icechunk.opening import Wanted, session_at, wanted
from icechunk.storage.urls import parse_address
from icechunk.testing.counting import CountingStorage
from tests.storage.fake_s3 import FakeS3, serving

SECRET = "hush5ecret"


@pytest.fixture
def url(spec: int) -> str:
    """A repository in memory with two commits, a branch and a tag at the first, and a tag that is called as a branch."""
    url = f"memory://test/{os.urandom(4).hex()}"
    repo = icechunk.open_repository(url, create=True, spec_version=spec)
    first = write(icechunk.open(url, "r+"), 1)
    repo.create_branch("dev", first)
    repo.create_tag("v1", first)
    repo.create_tag("dev", repo.lookup_branch("main"))
    write(icechunk.open(url, "r+"), 2)
    return url


def write(session: icechunk.Session, value: int) -> str:
    zarr.create_array(session.store, name="t", data=np.full(2, value), overwrite=True)
    return session.commit(str(value))


def value(session: icechunk.Session) -> int:
    return int(zarr.open_array(session.store, path="t", mode="r")[0])


def ids(url: str) -> tuple[str, str]:
    """The first commit, and the second."""
    second, first, *_ = [commit.id for commit in icechunk.open_repository(url).ancestry(branch="main")]
    return first, second


# ---- reading


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("", 2),
        ("@main", 2),
        ("@branch:main", 2),
        ("?branch=main", 2),
        ("@dev", 1),
        ("@branch:dev", 1),
        ("@tag:dev", 1),
        ("@v1", 1),
        ("@tag:v1", 1),
        ("?tag=v1", 1),
    ],
)
def test_versions(url: str, version: str, expected: int) -> None:
    session = icechunk.open(url + version)
    assert session.read_only
    if version == "@tag:dev":
        repo = icechunk.open_repository(url)
        assert session.snapshot_id == repo.lookup_tag("dev") == repo.lookup_branch("dev"), (
            "the tag was made before the second"
        )
    assert value(session) == expected


def test_snapshots(url: str) -> None:
    first, second = ids(url)
    for version in (f"@{first}", f"@{first.lower()}", f"@snapshot:{first}", f"?snapshot_id={first}"):
        assert icechunk.open(url + version).snapshot_id == first
    assert icechunk.open(url, snapshot_id=second).snapshot_id == second
    assert icechunk.open(url, tag="v1").snapshot_id == first
    assert icechunk.open(url, branch="dev").snapshot_id == first


def test_a_branch_comes_before_a_snapshot_of_its_name(url: str) -> None:
    first, second = ids(url)
    icechunk.open_repository(url).create_branch(first, second)
    assert icechunk.open(f"{url}@{first}").snapshot_id == second
    assert icechunk.open(f"{url}@snapshot:{first}").snapshot_id == first


@pytest.mark.parametrize(("version", "depth"), [("main", 2), ("branch:main", 2), ("v1", 3), ("tag:v1", 3), ("ID", 3)])
async def test_a_bare_name_waits_for_no_more_requests_than_one_that_says_what_it_is(
    spec: int, version: str, depth: int
) -> None:
    storage = CountingStorage(icechunk.in_memory_storage())
    repo = await icechunk.Repository.create_async(storage, spec_version=spec)
    first = await (await repo.writable_session_async("main")).commit_async("first", allow_empty=True)
    await repo.create_tag_async("v1", first)
    storage.reset()
    meant = wanted(parse_address(f"memory://x@{first if version == 'ID' else version}"))
    session = await session_at(await icechunk.Repository.open_async(storage), meant)
    assert session.snapshot_id == first
    assert storage.depth <= depth


def test_as_of(url: str) -> None:
    first, second = ids(url)
    repo = icechunk.open_repository(url)
    between = repo.lookup_snapshot(first).written_at
    assert icechunk.open(url, as_of=between).snapshot_id == first
    assert icechunk.open(f"{url}@main", as_of=between.isoformat()).snapshot_id == first
    assert icechunk.open(f"{url}@main?as_of={between.isoformat()}").snapshot_id == first
    assert icechunk.open(f"{url}?as_of={between.replace(tzinfo=None).isoformat()}").snapshot_id == first, "that is UTC"
    ahead = between.astimezone(UTC) + timedelta(hours=2)
    assert icechunk.open(f"{url}?as_of={ahead.isoformat()}").snapshot_id == second
    with pytest.raises(SnapshotNotFoundError, match="before or at 1999-01-01"):
        icechunk.open(f"{url}@main?as_of=1999-01-01")
    with pytest.raises(RefNotFoundError, match="there is no branch `v1`"):
        icechunk.open(f"{url}@v1?as_of=2100-01-01")


def test_a_branch_with_a_slash() -> None:
    url = f"memory://test/{os.urandom(4).hex()}"
    repo = icechunk.open_repository(url, create=True)
    repo.create_branch("feature/x@y", repo.lookup_branch("main"))
    assert icechunk.open(f"{url}@feature%2Fx%40y", "r+").branch == "feature/x@y"


@pytest.mark.parametrize(
    ("address", "arguments", "expected"),
    [
        (None, {}, Wanted()),
        ("memory://x", {}, Wanted()),
        ("memory://x@a:b", {}, Wanted(name="a:b")),
        ("memory://x@branch:a:b", {}, Wanted(branch="a:b")),
        ("memory://x@tag:v1", {}, Wanted(tag="v1")),
        ("memory://x@snapshot:S", {}, Wanted(snapshot_id="S")),
        ("memory://x", {"tag": "v1"}, Wanted(tag="v1")),
        ("memory://x@b?as_of=2024-05-01", {}, Wanted(name="b", as_of=datetime(2024, 5, 1, tzinfo=UTC))),
        (None, {"as_of": "2024-05-01T01:00:00Z"}, Wanted(as_of=datetime(2024, 5, 1, 1, tzinfo=UTC))),
    ],
)
def test_what_is_meant(address: str | None, arguments: dict[str, Any], expected: Wanted) -> None:
    assert wanted(None if address is None else parse_address(address), **arguments) == expected


@pytest.mark.parametrize(
    ("address", "arguments"),
    [
        ("memory://x@main", {"branch": "main"}),
        ("memory://x@main", {"snapshot_id": "S"}),
        ("memory://x@main?tag=v1", {}),
        ("memory://x?as_of=2024-05-01", {"as_of": "2024-05-01"}),
        ("memory://x", {"tag": "a", "branch": "b"}),
        ("memory://x@tag:v1?as_of=2024-05-01", {}),
        ("memory://x@snapshot:S", {"as_of": "2024-05-01"}),
        ("memory://x?as_of=yesterday", {}),
        ("memory://x@", {}),
        ("memory://x@tag:", {}),
    ],
)
def test_what_means_nothing(address: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        wanted(parse_address(address), **arguments)


def test_in_url_leads_to_the_same_version() -> None:
    for version in (Wanted(), Wanted(name="x"), Wanted(branch="x"), Wanted(tag="x"), Wanted(snapshot_id="S")):
        again = wanted(parse_address(f"memory://x@{version.in_url}"))
        assert again == (version if version != Wanted() else Wanted(name="main"))


# ---- writing


@pytest.mark.parametrize("version", ["", "@dev", "@branch:dev", "?branch=dev"])
def test_writing_to_a_branch(url: str, version: str) -> None:
    session = icechunk.open(url + version, mode="r+")
    assert not session.read_only
    assert session.branch == ("dev" if version else "main")
    write(session, 7)
    assert value(icechunk.open(url + version)) == 7


def test_mode_a_makes_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFoundError, match='mode="a"'):
        icechunk.open(tmp_path / "air", "r+")
    assert not (tmp_path / "air").exists()
    write(icechunk.open(tmp_path / "air", "a", spec_version=1), 3)
    assert icechunk.open_repository(tmp_path / "air").spec_version == 1
    assert value(icechunk.open(tmp_path / "air", "a")) == 3


def test_mode_w_begins_empty_and_keeps_history(url: str) -> None:
    session = icechunk.open(url, "w")
    assert list(zarr.open_group(session.store, mode="a")) == []
    zarr.create_array(session.store, name="u", data=np.arange(2))
    assert value(icechunk.open(url)) == 2, "until it is committed"
    session.commit("anew")
    assert list(zarr.open_group(icechunk.open(url).store, mode="r")) == ["u"]
    assert value(icechunk.open(f"{url}@v1")) == 1
    fresh = icechunk.open(f"memory://test/{os.urandom(4).hex()}", "w")
    assert fresh.branch == "main" and not fresh.has_uncommitted_changes


def test_mode_w_minus_makes_a_repository(url: str) -> None:
    with pytest.raises(InvalidInputError):
        icechunk.open(url, "w-")
    assert icechunk.open(f"{url}/new", "w-").branch == "main"


@pytest.mark.parametrize("mode", ["a", "w", "w-"])
def test_a_new_repository_has_one_branch(mode: Any) -> None:
    url = f"memory://test/{os.urandom(4).hex()}"
    with pytest.raises(ValueError, match="`main` and no other"):
        icechunk.open(f"{url}@dev", mode)
    assert not icechunk.Repository.exists(icechunk.storage_from_url(url)), "nothing was made"


@pytest.mark.parametrize("version", ["@tag:v1", "@snapshot:1CECHNKREP0F1RSTCMT0", "?as_of=2100-01-01"])
def test_only_branches_are_written_to(url: str, version: str) -> None:
    with pytest.raises(ValueError, match="only a branch can be written to"):
        icechunk.open(url + version, "r+")


def test_a_tag_is_not_written_to(url: str) -> None:
    with pytest.raises(RefNotFoundError, match="`v1` is a tag"):
        icechunk.open(f"{url}@v1", "a")


def test_a_web_server_is_not_written_to() -> None:
    with pytest.raises(ReadOnlyError, match=r"https://example\.org/air can only be read"):
        icechunk.open("https://example.org/air", "a")


def test_a_mode_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="mode is one of"):
        icechunk.open("memory://x", "x")  # type: ignore[arg-type]


# ---- what errors say


def test_what_is_there_is_named(url: str) -> None:
    with pytest.raises(RefNotFoundError) as caught:
        icechunk.open(f"{url}@mian")
    text = str(caught.value)
    assert caught.value.kind == ErrorKind.REF_NOT_FOUND
    for part in (
        f"no branch, tag or snapshot `mian` in {url}",
        "did you mean `main`?",
        "`dev`, `main`",
        "tags `dev`, `v1`",
    ):
        assert part in text
    assert "write a `/` behind it" in text
    for version, what in (("@branch:v1", "branch `v1`"), ("@tag:main", "tag `main`")):
        with pytest.raises(RefNotFoundError, match=f"there is no {what}"):
            icechunk.open(url + version)
    with pytest.raises(RefNotFoundError, match=r"there is no branch `nope`.*`dev`, `main`"):
        icechunk.open(f"{url}@nope", "r+")
    with pytest.raises(InvalidInputError, match="invalid snapshot id"):
        icechunk.open(f"{url}@snapshot:nope")
    with pytest.raises(SnapshotNotFoundError, match="there is no snapshot `00000000000000000000` in"):
        icechunk.open(url, snapshot_id="0" * 20)
    with pytest.raises(RefNotFoundError, match="there is no branch, tag or snapshot `0000"):
        icechunk.open(f"{url}@{'0' * 20}")


def test_a_name_with_a_slash_is_not_found(url: str) -> None:
    with pytest.raises(RefNotFoundError):
        icechunk.open(f"{url}@a%2Fb")


def test_of_many_names_some_are_shown(url: str) -> None:
    repo = icechunk.open_repository(url)
    for number in range(20):
        repo.create_branch(f"b{number:02}", repo.lookup_branch("main"))
    with pytest.raises(RefNotFoundError, match="`b11` and 10 more"):
        icechunk.open(f"{url}@zzz")


def test_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RepositoryNotFoundError, match=r"there is no repository at nothing; `icechunk\.open"):
        icechunk.open("nothing")
    with pytest.raises(RepositoryNotFoundError, match="at data; `home` was taken for its version"):
        icechunk.open("data@home")
    icechunk.open("data@home/", "a")
    assert icechunk.open("data@home/@main").branch is None
    with pytest.raises(RepositoryNotFoundError, match="type in-memory"):
        icechunk.open(icechunk.in_memory_storage())


@pytest.fixture
def server() -> Iterator[FakeS3]:
    with serving() as state:
        yield state


def test_on_s3(server: FakeS3) -> None:
    options: dict[str, Any] = {"region": "us-east-1", "endpoint_url": server.url, "force_path_style": True}
    key = {"access_key_id": "a", "secret_access_key": SECRET}
    write(icechunk.open("s3://b/air", "a", **options, **key), 4)
    assert value(icechunk.open("s3://b/air@main", anonymous=True, **options)) == 4
    credentials = icechunk.s3_credentials(**key)
    assert value(icechunk.open(f"s3://b/air?endpoint_url={server.url}&region=us-east-1", credentials=credentials)) == 4
    with pytest.raises(RefNotFoundError, match=r"in s3://b/air;"):
        icechunk.open("s3://b/air@x", **options, **key)


def shown_by(error: BaseException) -> str:
    """An error with everything around it, down to the variables of our frames."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    found = [str(told), repr(error)]
    for frame in told.stack:
        if "/src/icechunk/" in frame.filename:
            found += [f"{frame.name}: {name}={value}" for name, value in (frame.locals or {}).items()]
    assert error.__context__ is None or error.__suppress_context__ or SECRET not in str(error.__context__)
    return "\n".join(found)


NOWHERE = {"endpoint_url": "http://127.0.0.1:9", "secret_access_key": SECRET, "access_key_id": "a"}
QUICK = icechunk.RepositoryConfig(
    storage=icechunk.StorageSettings(retries=icechunk.StorageRetriesSettings(max_tries=1, initial_backoff_ms=1))
)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://b/p@main", NOWHERE),
        ("s3://b/p@main", {**NOWHERE, "anon": True}),
        ("s3://b/p@main", {**NOWHERE, "credentials": icechunk.s3_credentials()}),
        ("s3://b/p@main", {"secret_access_key": SECRET}),
        (f"s3://a:{SECRET}@b/p@main", {}),
        (f"s3://b/p@main?secret={SECRET}", {}),
        (f"http://user:{SECRET}@127.0.0.1:9/p@main", {}),
        ("az://c/p", {"access_key": SECRET}),
    ],
)
@pytest.mark.parametrize("name", ["open", "open_repository", "storage_from_url"])
def test_no_secret_is_told(name: str, url: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT", raising=False)
    options = dict(options)
    if name != "open" and SECRET not in url:
        url = url.removesuffix("@main")
    try:
        made = getattr(icechunk, name)(url, **options, **({"config": QUICK} if name != "storage_from_url" else {}))
    except (IcechunkError, TypeError, ValueError) as error:
        assert SECRET not in shown_by(error)
    else:
        assert name == "storage_from_url"
        assert SECRET not in repr(made)


# ---- how it is offered


async def test_asynchronous_twins() -> None:
    url = f"memory://test/{os.urandom(4).hex()}"
    session = await icechunk.open_async(url, "a")
    assert session.branch == "main"
    repo = await icechunk.open_repository_async(url)
    assert await repo.list_branches_async() == {"main"}
    for name in ("open", "open_repository"):
        twin, plain = getattr(icechunk, f"{name}_async"), getattr(icechunk, name)
        assert inspect.signature(twin) == inspect.signature(plain)
        assert inspect.iscoroutinefunction(twin) and not inspect.iscoroutinefunction(plain)
        assert (plain.__name__, plain.__doc__) == (name, twin.__doc__)


def test_sessions_by_url_travel(tmp_path: Path) -> None:
    write(icechunk.open(tmp_path / "air", "a"), 5)
    assert value(pickle.loads(pickle.dumps(icechunk.open(tmp_path / "air")))) == 5


def test_a_repository_has_no_version(url: str) -> None:
    for version in ("@main", "?tag=v1"):
        with pytest.raises(InvalidInputError, match=r"use `icechunk\.open`"):
            icechunk.open_repository(url + version)


def test_a_storage_instead_of_a_url() -> None:
    storage = icechunk.in_memory_storage()
    write(icechunk.open(storage, "a"), 6)
    assert value(icechunk.open(storage, branch="main")) == 6
    assert icechunk.open_repository(storage).storage is storage
    with pytest.raises(TypeError, match="leave region out"):
        icechunk.open(storage, region="x")
    for wrong in (3, None, b"air"):
        with pytest.raises(TypeError):
            icechunk.open(wrong)  # type: ignore[arg-type]


def test_options_reach_the_repository(url: str) -> None:
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=7)
    session = icechunk.open(url, config=config)
    assert session.config.inline_chunk_threshold_bytes == 7
    repo = icechunk.open_repository(url, config=config, authorize_virtual_chunk_access={"s3://b/": None})
    assert repo.authorized_virtual_container_prefixes == {"s3://b/"}


def test_opening_loads_neither_zarr_nor_xarray(tmp_path: Path) -> None:
    program = (
        "import sys, icechunk\n"
        "session = icechunk.open(sys.argv[1], 'a')\n"
        "assert icechunk.open(sys.argv[1] + '@main').snapshot_id == session.snapshot_id\n"
        "assert not {'zarr', 'xarray', 'obstore', 'asyncio', 'difflib'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "air")], check=True, timeout=60)


def test_a_star_import_leaves_pythons_own_open_alone() -> None:
    names: dict[str, Any] = {}
    exec("from icechunk import *", names)
    assert "open" not in names
    assert names["open_repository"] is icechunk.open_repository
    assert "open" in dir(icechunk)

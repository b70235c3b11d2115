"""Opening by URL: one line from an address to a session.

    session = icechunk.open("s3://bucket/air@v1")            # reads the branch, tag or snapshot v1
    session = icechunk.open("~/air@dev", mode="r+")          # writes to the branch dev

A URL names a place, which `storage.urls` knows how to reach, and may end in a version. This module knows versions: `@main` is a
branch, else a tag, else the id of a snapshot; `@branch:main`, `@tag:v1` and `@snapshot:1CECHNKREP0F1RSTCMT0` are what they
say. Deciding what is meant (`wanted`) is apart from looking it up.

`open` is no name that `from icechunk import *` brings: that would hide Python's own.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from icechunk._dataclass import dataclass
from icechunk._driver import blocking_function, concurrent_map
from icechunk.config import RepositoryConfig
from icechunk.errors import (
    ErrorKind,
    InvalidInputError,
    NotFoundError,
    ReadOnlyError,
    RefNotFoundError,
    RepositoryNotFoundError,
    SnapshotNotFoundError,
)
from icechunk.format.ids import parse_id
from icechunk.info import Attribution, SpecVersion
from icechunk.refs.base import MAIN
from icechunk.repository import Repository, place_of
from icechunk.session import Session
from icechunk.storage.base import Storage
from icechunk.storage.urls import VERSION_PARAMETERS, Address, reach
from icechunk.virtual_access import Drift
from icechunk.workspace import Mode

__all__ = ["open", "open_async", "open_repository", "open_repository_async"]

Place: TypeAlias = str | os.PathLike[str] | Storage
OpenMode: TypeAlias = Literal["r", "r+", "a", "w", "w-"]

_MODES = ("r", "r+", "a", "w", "w-")
_NAMED = 12
"""So many names an error lists at most."""


# ------------------------------------------------------------------------------------------------------ what is meant


@dataclass(frozen=True)
class Wanted:
    """Which version is meant: a branch, a tag, a snapshot, or a name that may be any of them. All None is `main`."""

    name: str | None = None
    branch: str | None = None
    tag: str | None = None
    snapshot_id: str | None = None
    as_of: datetime | None = None

    @property
    def in_url(self) -> str:
        """How a URL says it, without the `@`."""
        known = {"branch": self.branch, "tag": self.tag, "snapshot": self.snapshot_id}
        return self.name or next((f"{kind}:{name}" for kind, name in known.items() if name is not None), MAIN)


def wanted(
    address: Address | None,
    branch: str | None = None,
    tag: str | None = None,
    snapshot_id: str | None = None,
    as_of: datetime | str | None = None,
) -> Wanted:
    """The version that a URL and arguments name together; `ValueError` where they name several."""
    given: dict[str, Any] = {"branch": branch, "tag": tag, "snapshot_id": snapshot_id, "as_of": as_of}
    given = {name: value for name, value in given.items() if value is not None}
    if address is not None:
        said = {name: address.parameters[name] for name in VERSION_PARAMETERS if name in address.parameters}
        if address.version is not None:
            said |= _parse_version(address.version)
        if twice := (said.keys() & given.keys()):
            raise ValueError(
                f"{', '.join(sorted(twice))}: the URL says it, and the arguments say it too; leave one out"
            )
        given |= said
    when = given.pop("as_of", None)
    if len(given) > 1:
        named = [{"name": "what follows the `@`"}.get(name, name) for name in sorted(given)]
        raise ValueError(f"one version can be opened, not {' and '.join(named)}: leave out all but one")
    if when is None:
        return Wanted(**given)
    if "tag" in given or "snapshot_id" in given:
        raise ValueError("as_of asks what a branch held at a time; a tag or a snapshot never held anything else")
    return Wanted(**given, as_of=_moment(when))


def _parse_version(text: str) -> dict[str, str]:
    kind, colon, name = text.partition(":")
    field = {"branch": "branch", "tag": "tag", "snapshot": "snapshot_id"}.get(kind) if colon else None
    if not (name if field else text):
        raise InvalidInputError(
            "error parsing URL: nothing follows the `@`; write @main, @branch:main, @tag:v1 or @snapshot:ID, or a `/` behind "
            "an `@` that belongs to the place",
            ErrorKind.CANNOT_PARSE_URL,
        )
    return {field: name} if field else {"name": text}


def _moment(value: datetime | str) -> datetime:
    """A time as an argument or a URL gives it; a text without a time zone is UTC, to be the same time everywhere."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        raise TypeError(f"as_of is a datetime or a text such as 2024-05-01T12:00:00Z, got {type(value).__name__}")
    try:
        when = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"as_of is a time such as 2024-05-01 or 2024-05-01T12:00:00Z, got {value!r}") from None
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)


# ------------------------------------------------------------------------------------------------------------ sessions


async def open_async(
    url: Place,
    mode: OpenMode = "r",
    *,
    branch: str | None = None,
    tag: str | None = None,
    snapshot_id: str | None = None,
    as_of: datetime | str | None = None,
    config: RepositoryConfig | None = None,
    authorize_virtual_chunk_access: Mapping[str, Any] | None = None,
    attribution: Attribution | None = None,
    virtual_drift: Drift = "error",
    anonymous_virtual_access: bool | Collection[str] = False,
    spec_version: SpecVersion | int | None = None,
    credentials: Any = None,
    **storage_options: Any,
) -> Session:
    """Open one version of a repository, by URL.

        session = icechunk.open("s3://bucket/air@v1", region="eu-west-1")
        zarr.open_group(session.store, mode="r")

        session = icechunk.open("~/air", mode="a")           # makes the repository if there is none
        zarr.create_array(session.store, name="t", data=np.arange(3))
        session.commit("first data")

    Parameters
    ----------
    url
        Where, as `storage_from_url` has it, and after an `@` which version: `@main` is a branch, else a tag, else the id
        of a snapshot; `@branch:main`, `@tag:v1` and `@snapshot:ID` are what they say. The version is what follows the last
        `@` if no `/` comes after it; a `/` in the name of a branch is written `%2F`. `?as_of=2024-05-01T12:00:00Z` asks for
        what the branch held then. Without a version it is the branch `main`. A path-like object or a storage names no
        version.
    mode
        - `"r"`: a read-only session.
        - `"r+"`: a writable session on a branch.
        - `"a"`: the same; where there is no repository one is made.
        - `"w"`: as `"a"`, and the session begins empty: when it is committed, nothing is left of what the branch held but
          its history.
        - `"w-"`: makes a repository, and fails where something is.
    branch, tag, snapshot_id, as_of
        The version, by arguments. A time that is a text without a time zone is UTC.
    config, authorize_virtual_chunk_access, attribution, virtual_drift, anonymous_virtual_access, spec_version
        As for `Repository.open` and `Repository.create`.
    credentials, **storage_options
        As for `storage_from_url`.

    Returns
    -------
    Session
        `session.store` is what zarr and xarray take.

    Raises
    ------
    RepositoryNotFoundError, RefNotFoundError, SnapshotNotFoundError
        It is not there; the error names what is.
    InvalidInputError
        The URL cannot be understood.
    ValueError
        Several versions were named, or one to write to that is no branch.
    ReadOnlyError
        A place that can only be read was opened for writing.
    """
    if mode not in _MODES:
        raise ValueError(f"mode is one of {', '.join(map(repr, _MODES))}, not {mode!r}")
    try:
        storage, address = _reach(url, credentials, storage_options)
    finally:
        del url  # a password in it would be seen in tracebacks that show variables
    version = wanted(address, branch, tag, snapshot_id, as_of)
    options = {
        "authorize_virtual_chunk_access": authorize_virtual_chunk_access,
        "attribution": attribution,
        "virtual_drift": virtual_drift,
        "anonymous_virtual_access": anonymous_virtual_access,
    }
    if mode == "r":
        repo = await _repository(storage, address, "r", config, options)
        return await session_at(repo, version, address)
    target = _branch_to_write(version)
    if storage.read_only:
        raise ReadOnlyError(f"{_shown(storage, address)} can only be read; leave mode out", ErrorKind.READ_ONLY_STORAGE)
    if mode != "r+" and target != MAIN and (mode == "w-" or not await Repository.exists_async(storage)):
        raise ValueError(f"a new repository has the branch `{MAIN}` and no other; open that, then make `{target}`")
    repo = await _repository(storage, address, mode, config, options, spec_version)
    session = await _writable_session(repo, target, version, address)
    if mode == "w":
        await session._workspace.delete_prefix("")
    return session


open = blocking_function(open_async)


async def session_at(repo: Repository, version: Wanted, address: Address | None = None) -> Session:
    """A read-only session at a version of a repository. What cannot be found raises an error that names what there is."""
    try:
        if version.name is None or version.as_of is not None:
            branch = version.branch or version.name
            if version.tag is None and version.snapshot_id is None:
                branch = MAIN if branch is None else branch
            return await repo.readonly_session_async(
                branch, tag=version.tag, snapshot_id=version.snapshot_id, as_of=version.as_of
            )
        return await _session_named(repo, version.name)
    except NotFoundError as error:
        if isinstance(error, SnapshotNotFoundError) and version.snapshot_id is None:
            raise  # of a time, which it names
        kind, missing = error.kind, RefNotFoundError if isinstance(error, RefNotFoundError) else SnapshotNotFoundError
    raise missing(await _what_there_is(repo, version, address), kind)


async def _session_named(repo: Repository, name: str) -> Session:
    """What is called `name`: a branch, else a tag, else a snapshot. What is not known to be a branch is looked up at once."""
    core = repo._core
    refs = core.refs
    try:
        if name == MAIN or refs.remembered_tip(name) is not None:
            return await repo.readonly_session_async(name)
    except (RefNotFoundError, InvalidInputError):  # deleted just now; a name that no branch can have
        pass
    lookups: list[Callable[[], Awaitable[bytes]]] = [lambda: refs.branch_tip(name), lambda: refs.tag_target(name)]
    if _is_id(name):
        lookups.append(lambda: _snapshot(repo, name))
    for found in await concurrent_map(_or_none, lookups, core.width):
        if found is not None:
            return await repo._session(found, Mode.READ_ONLY)
    raise RefNotFoundError("", ErrorKind.REF_NOT_FOUND)


async def _snapshot(repo: Repository, name: str) -> bytes:
    return (await repo._core.refs.snapshot_record(parse_id(name))).id


async def _or_none(lookup: Callable[[], Awaitable[bytes]]) -> bytes | None:
    """What is looked up, None where there is no such thing."""
    try:
        return await lookup()
    except (RefNotFoundError, SnapshotNotFoundError):
        return None
    except InvalidInputError as error:
        if error.kind != ErrorKind.INVALID_REF_NAME:  # which is that of nothing
            raise
        return None


def _is_id(text: str) -> bool:
    try:
        parse_id(text)
    except ValueError:
        return False
    return True


def _branch_to_write(version: Wanted) -> str:
    """The branch that is to be written to; a snapshot or a tag never changes."""
    if version.tag is not None or version.snapshot_id is not None or version.as_of is not None:
        raise ValueError("only a branch can be written to: name one, or make one with `repo.create_branch`")
    return version.branch or version.name or MAIN


async def _writable_session(repo: Repository, branch: str, version: Wanted, address: Address | None) -> Session:
    try:
        return await repo.writable_session_async(branch)
    except RefNotFoundError as error:
        why = await _what_there_is(repo, replace(version, name=None, branch=branch), address)
        if branch in await repo.list_tags_async():
            why = f"`{branch}` is a tag, and only a branch can be written to; make one with `repo.create_branch`"
        failure = RefNotFoundError(why, error.kind)
    raise failure


async def _what_there_is(repo: Repository, version: Wanted, address: Address | None) -> str:
    """That something was not found, and what is there instead."""
    from difflib import get_close_matches

    branches, tags = sorted(await repo.list_branches_async()), sorted(await repo.list_tags_async())
    place = _shown(repo.storage, address)
    missing, what = version.snapshot_id, "snapshot"
    if version.branch is not None:
        missing, what = version.branch, "branch"
    elif version.tag is not None:
        missing, what = version.tag, "tag"
    elif version.name is not None:
        missing, what = version.name, "branch" if version.as_of else "branch, tag or snapshot"
    parts = [f"there is no {what} `{missing}` in {place}"]
    likely = get_close_matches(missing or "", [*branches, *tags], 1)
    if likely:
        parts.append(f"did you mean `{likely[0]}`?")
    parts.append(f"it has the branches {_listed(branches)} and {f'the tags {_listed(tags)}' if tags else 'no tags'}")
    if version.snapshot_id is not None:
        parts.append("`repo.ancestry(branch=...)` lists the snapshots of a branch")
    if address is not None and ":" not in (address.version or ":"):
        parts.append("if the `@` belongs to the place, write a `/` behind it")
    return "; ".join(parts)


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


# -------------------------------------------------------------------------------------------------------- repositories


async def open_repository_async(
    url: Place,
    *,
    create: bool = False,
    config: RepositoryConfig | None = None,
    authorize_virtual_chunk_access: Mapping[str, Any] | None = None,
    attribution: Attribution | None = None,
    virtual_drift: Drift = "error",
    anonymous_virtual_access: bool | Collection[str] = False,
    spec_version: SpecVersion | int | None = None,
    credentials: Any = None,
    **storage_options: Any,
) -> Repository:
    """Open a repository, by URL.

        repo = icechunk.open_repository("s3://bucket/air", region="eu-west-1")

    Parameters
    ----------
    url
        Where, as `storage_from_url` has it; without a version.
    create
        Whether to make a repository where there is none.
    config, authorize_virtual_chunk_access, attribution, virtual_drift, anonymous_virtual_access, spec_version
        As for `Repository.open` and `Repository.create`.
    credentials, **storage_options
        As for `storage_from_url`.

    Raises
    ------
    RepositoryNotFoundError
        There is none.
    InvalidInputError
        The URL cannot be understood, or names a version.
    """
    try:
        storage, address = _reach(url, credentials, storage_options, versions=False)
    finally:
        del url  # a password in it would be seen in tracebacks that show variables
    options = {
        "authorize_virtual_chunk_access": authorize_virtual_chunk_access,
        "attribution": attribution,
        "virtual_drift": virtual_drift,
        "anonymous_virtual_access": anonymous_virtual_access,
    }
    return await _repository(storage, address, "a" if create else "r+", config, options, spec_version)


open_repository = blocking_function(open_repository_async)


def _reach(
    url: Place, credentials: Any, options: dict[str, Any], *, versions: bool = True
) -> tuple[Storage, Address | None]:
    """The storage that is meant, and the URL taken apart, if it is one."""
    if isinstance(url, Storage):
        if options or credentials is not None:
            raise TypeError(f"a storage has its options already; leave {', '.join(options) or 'credentials'} out")
        return url, None
    try:
        return reach(url, credentials, options, versions=versions)
    finally:
        del url


async def _repository(
    storage: Storage,
    address: Address | None,
    mode: OpenMode,
    config: RepositoryConfig | None,
    options: dict[str, Any],
    spec_version: SpecVersion | int | None = None,
) -> Repository:
    if mode == "w-":
        return await Repository.create_async(storage, config, spec_version=spec_version, **options)
    if mode in ("a", "w"):
        return await Repository.open_or_create_async(storage, config, create_version=spec_version, **options)
    try:
        return await Repository.open_async(storage, config, **options)
    except RepositoryNotFoundError as error:
        hint = ""
        if address is not None and address.version is not None:
            hint = f"; `{address.version}` was taken for its version: if the `@` belongs to the place, write a `/` behind it"
        failure = RepositoryNotFoundError(
            f'there is no repository at {_shown(storage, address)}{hint}; `icechunk.open(..., mode="a")` and '
            "`icechunk.open_repository(..., create=True)` make one",
            error.kind,
        )
    raise failure


def _shown(storage: Storage, address: Address | None) -> str:
    """The place, for errors."""
    return place_of(storage) if address is None else address.shown

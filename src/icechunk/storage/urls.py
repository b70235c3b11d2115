"""Places by URL: `s3://bucket/prefix`, `gs://...`, `az://...`, `https://...`, `memory://name`, `file:///data/air`, `~/air`.

A URL is taken apart by `parse_address`, which is pure, and made into a storage by `storage_at`. It may end in a version, which
is what follows the last `@` if no `/` comes after it: `s3://bucket/prefix@main`. Where an `@` belongs to the last part of a
place, the place ends in a slash: `data@home/`, `data@home/@main`. In URLs `%40` is an `@` as well, `%2F` a slash and so
on; a path without scheme is taken as it is, up to its version.

Options of the storage come as arguments, those that are no secrets also as `?region=eu-west-1`. No error shows a URL before
credentials were taken out of it.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Any
from urllib.parse import unquote

from icechunk._dataclass import dataclass
from icechunk.config.virtual import S3Options
from icechunk.credentials import S3Credentials, S3StaticCredentials
from icechunk.display import masked_url
from icechunk.errors import ErrorKind, IcechunkError, InvalidInputError, StorageError
from icechunk.storage import builders, factories
from icechunk.storage.base import Storage

VERSION_PARAMETERS = ("branch", "tag", "snapshot_id", "as_of")
"""What a URL may say of the version behind its `?`."""

_SCHEMES = {
    "file": "file",
    "memory": "memory",
    "s3": "s3",
    "r2": "r2",
    "tigris": "tigris",
    "http": "http",
    "https": "http",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "azure": "az",
    "abfs": "az",
    "abfss": "az",
}
_BUCKETED = ("s3", "gs", "r2", "tigris", "memory")
"""Kinds of which a version may follow a bucket directly; in the others an `@` there means something else."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # two characters or more: one is a drive
_BUCKET = re.compile(r"[\w.-]+")
_ACCOUNT_HOST = re.compile(r"([a-z0-9]+)\.(?:dfs|blob)\.core\.windows\.net", re.IGNORECASE)
_PARAMETER = re.compile(r"[a-z_]{1,40}")


@dataclass(frozen=True)
class Address:
    """A URL taken apart.

    Attributes
    ----------
    kind : str
        "file", "memory", "s3", "r2", "tigris", "gs", "az" or "http".
    host : str
        Bucket, container or server; empty for files.
    path : str
        The rest: a path of the file system, a prefix, or for "http" the whole address.
    version : str or None
        What followed the `@`.
    parameters : mapping of str to str
        What followed the `?`.
    shown : str
        The place as errors call it, without version, parameters and secrets.
    """

    kind: str
    host: str = field(repr=False)
    path: str = field(repr=False)
    version: str | None
    parameters: Mapping[str, str] = field(repr=False)
    shown: str

    @property
    def has_version(self) -> bool:
        """Whether the URL says which version is meant."""
        return self.version is not None or any(name in self.parameters for name in VERSION_PARAMETERS)


# -------------------------------------------------------------------------------------------------------------- parsing


def parse_address(url: str | os.PathLike[str], *, windows: bool = os.name == "nt") -> Address:
    """Take a URL apart. A path-like object is a path as it is, without version.

    Raises `InvalidInputError` (cannot-parse-url) for schemes that are not known, and for parameters and credentials that do
    not belong into a URL.
    """
    if isinstance(url, os.PathLike):
        path = os.fspath(url)
        return Address("file", "", path, None, {}, path)
    if not isinstance(url, str):
        raise TypeError(f"expected a URL or a path, got {type(url).__name__}")
    found = _SCHEME.match(url)
    if found is None:
        return _bare_path(url, windows)
    scheme, rest = found[1].lower(), url[found.end() :]
    kind = _SCHEMES.get(scheme)
    if kind is None:
        raise _refused(
            f"there is no scheme {scheme}://; there are {', '.join(f'{one}://' for one in _SCHEMES)}, and paths"
        )
    rest, _, query = rest.partition("?")
    parameters = _parse_query(query)
    version = None
    if kind in _BUCKETED or "/" in rest:
        rest, version = split_version(rest)
    host, _, path = rest.partition("/")
    shown = f"{scheme}://{rest}"
    if kind == "http":
        path = f"{scheme}://{rest}"
    else:
        path = _file_path(host, path, windows) if kind == "file" else unquote(path)
        host = "" if kind == "file" else _checked_host(kind, scheme, host)
    if kind != "az":  # the container in front of its account was checked, and is no user
        shown = masked_url(shown)
    return Address(kind, host, path, None if version is None else unquote(version), parameters, shown)


def split_version(text: str, separators: str = "/") -> tuple[str, str | None]:
    """A place, and what follows the last `@`, if no separator comes after it."""
    place, at, version = text.rpartition("@")
    if not at or any(one in version for one in separators):
        return text, None
    return place, version


def _bare_path(text: str, windows: bool) -> Address:
    scheme, colon, rest = text.partition(":")
    if colon and scheme.lower() in _SCHEMES:
        raise _refused(
            f"this looks like a URL without its slashes; write {scheme.lower()}://{masked_url(rest.lstrip('/'))}"
        )
    path, version = split_version(text, "/\\" if windows else "/")
    if not path:
        raise _refused("an empty path names no place")
    version, _, query = (version or "").partition("?")
    parameters = _parse_query(query)
    return Address("file", "", path, unquote(version) if path != text else None, parameters, path)


def _file_path(host: str, path: str, windows: bool) -> str:
    """The path of the file system in a `file:` URL."""
    if host.lower() not in ("", "localhost"):
        raise _refused("a file URL has three slashes, file:///data/air; for a relative path leave the scheme out")
    path = unquote(path)
    return path if windows and re.match(r"[A-Za-z]:", path) else f"/{path}"


def _checked_host(kind: str, scheme: str, host: str) -> str:
    """The host, if it is the name of a bucket. What is none may be a secret, and is not shown."""
    name = host
    if kind == "az" and "@" in host:
        name, _, server = host.partition("@")
        if not _ACCOUNT_HOST.fullmatch(server):
            raise _refused(f"expected {scheme}://container@account.dfs.core.windows.net/path")
    if kind == "memory":
        return host
    if not _BUCKET.fullmatch(name):
        raise _refused(
            f"expected {scheme}://{'container' if kind == 'az' else 'bucket'}/prefix; credentials are given as arguments"
        )
    return host


def _parse_query(query: str) -> dict[str, str]:
    """The parameters of a URL. Here `+` is a plus: it stands in times."""
    found: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        known = bool(equals) and _PARAMETER.fullmatch(name) is not None
        if not known or name not in (*VERSION_PARAMETERS, *_OPTIONS_IN_URLS) or name in found:
            why = f"`{name}` cannot be in a URL, or not twice" if known else "something behind its ? has no name"
            raise _refused(
                f"{why}; a URL may say {', '.join((*VERSION_PARAMETERS, *_OPTIONS_IN_URLS))}; give everything else, above "
                "all secrets, as arguments"
            )
        found[name] = unquote(value)
    return found


def _refused(why: str) -> InvalidInputError:
    return InvalidInputError(f"error parsing URL: {why}", ErrorKind.CANNOT_PARSE_URL)


# --------------------------------------------------------------------------------------------------------------- making

_FLAGS = ("anonymous", "from_env", "allow_http", "force_path_style", "requester_pays", "use_weak_consistency")
_OPTIONS_IN_URLS = ("region", "endpoint_url", "account", "account_id", *_FLAGS)


def storage_from_url(url: str | os.PathLike[str], *, credentials: Any = None, **options: Any) -> Storage:
    """The storage at a URL, or in the directory at a path.

        icechunk.storage_from_url("s3://bucket/prefix", region="eu-west-1", anonymous=True)

    Parameters
    ----------
    url
        - `s3://bucket/prefix`, `r2://bucket/prefix?account_id=...`, `tigris://bucket/prefix?region=...`;
        - `gs://bucket/prefix` or `gcs://...`;
        - `az://container/prefix` or `azure://...` with `account=` (or `AZURE_STORAGE_ACCOUNT_NAME` in the environment),
          `abfs://container@account.dfs.core.windows.net/prefix` or `abfss://...`;
        - `http://...` and `https://...`, read-only;
        - `memory://name`, the same storage for the same name for as long as this process lives;
        - `file:///absolute/path`, or a path, which may begin with `~`.
    credentials
        What `s3_credentials`, `gcs_credentials` or `azure_credentials` returns; the environment is asked otherwise.
    **options
        Those of `s3_storage`, `gcs_storage`, `azure_storage`, ... but for the place; their `config` and `opts` are called
        `client_options` here. What is no secret may stand in the URL too:
        `s3://bucket/prefix?region=eu-west-1&anonymous=true`.

    Raises
    ------
    InvalidInputError
        The URL cannot be understood (cannot-parse-url), or names a version.
    TypeError
        The storage has no such option.
    """
    try:
        storage, _ = reach(url, credentials, options, versions=False)
    finally:
        del url  # a password in it would be seen in tracebacks that show variables
    return storage


def reach(
    url: str | os.PathLike[str], credentials: Any, options: dict[str, Any], *, versions: bool = True
) -> tuple[Storage, Address]:
    """The storage at a URL, and the URL taken apart; `options` are emptied.

    That is so that no secret stays in a variable of the caller, where a traceback may show it; for that reason frames that
    had them are cut off from what is raised, too.
    """
    try:
        address = parse_address(url)
        if address.has_version and not versions:
            raise _refused(
                f"{address.shown} is followed by a version, which neither a storage nor a repository has: leave it out, or use "
                "`icechunk.open`. An `@` that belongs to the place is followed by a `/`"
            )
        return storage_at(address, credentials, options), address
    except (IcechunkError, TypeError, ValueError) as error:
        failure = error.with_traceback(None)
    finally:
        del url
        options.clear()
    raise failure


def storage_at(address: Address, credentials: Any = None, options: Mapping[str, Any] | None = None) -> Storage:
    """The storage at an address; `options` win over those of the URL."""
    given = {name: _value(name, text) for name, text in address.parameters.items() if name in _OPTIONS_IN_URLS}
    given |= options or {}
    if address.kind == "file":
        return _made(factories.local_filesystem_storage, {"path": os.path.expanduser(address.path)}, given, credentials)
    if address.kind == "memory":
        return _made(_memory, {"name": f"{address.host}/{address.path}".strip("/")}, given, credentials)
    if address.kind == "http":
        return _made(factories.http_storage, {"base_url": address.path}, given, credentials)
    if address.kind == "az":
        return _azure(address, given, credentials)
    place = {"bucket": address.host, "prefix": address.path}
    if address.kind == "gs":
        return _made(factories.gcs_storage, place, given, credentials, builders.new_gcs)
    if str(given.get("endpoint_url", "")).lower().startswith("http://"):
        given.setdefault("allow_http", True)  # whoever gives an address with http:// means it
    factory, builder = _S3_KIN[address.kind]
    return _made(factory, place, given, credentials, _on_s3(builder))


_CLIENT_OPTIONS = {"config": "client_options", "opts": "client_options"}
"""How the functions call options of the client, and what they are called here, where `config` is that of a repository."""

_S3_KIN: dict[str, tuple[Callable[..., Storage], Callable[..., Storage]]] = {
    "s3": (factories.s3_storage, builders.new_s3),
    "r2": (factories.r2_storage, builders.new_r2),
    "tigris": (factories.tigris_storage, builders.new_tigris),
}


def _made(
    factory: Callable[..., Storage],
    place: dict[str, str],
    options: dict[str, Any],
    credentials: Any,
    builder: Callable[..., Storage] | None = None,
) -> Storage:
    """What `factory` makes; with credentials as an object, what `builder` makes, which takes them as one."""
    known = [_CLIENT_OPTIONS.get(name, name) for name in _parameters(factory) if name not in place]
    for name in options:
        if name not in known:
            raise TypeError(
                f"{factory.__name__.strip('_')} takes no option {name!r}; it takes {', '.join(known) or 'none'}"
            )
    for theirs, ours in _CLIENT_OPTIONS.items():
        if ours in options and theirs in _parameters(factory):
            options[theirs] = options.pop(ours)
    if credentials is None:
        return factory(**place, **options)
    if builder is None:
        raise TypeError("there is nothing at this kind of place that credentials could be for; leave them out")
    taken = {*_parameters(builder)}
    if "options" in taken:
        taken.update(_parameters(S3Options))
    if twice := [name for name in options if name not in taken]:
        raise TypeError(f"credentials are given as an object already; leave {', '.join(twice)} out")
    return builder(**place, credentials=credentials, **options)


def _parameters(function: Callable[..., Any]) -> Iterable[str]:
    from inspect import signature

    return signature(function).parameters


def _on_s3(make: Callable[..., Storage]) -> Callable[..., Storage]:
    """`make`, which takes some options as one object, taking them one by one."""

    def build(
        bucket: str,
        prefix: str,
        credentials: Any,
        headers: Any = None,
        read_headers: Any = None,
        write_headers: Any = None,
        account_id: str | None = None,
        use_weak_consistency: bool = False,
        **options: Any,
    ) -> Storage:
        if isinstance(credentials, S3StaticCredentials):
            credentials = S3Credentials.Static(credentials)
        more: dict[str, Any] = {"headers": headers, "read_headers": read_headers, "write_headers": write_headers}
        if make is builders.new_r2:
            more["account_id"] = account_id
        if make is builders.new_tigris:
            more["use_weak_consistency"] = use_weak_consistency
        config = S3Options(**{"anonymous": isinstance(credentials, S3Credentials.Anonymous), **options})
        return make(config=config, bucket=bucket, prefix=prefix, credentials=credentials, **more)

    return build


def _azure(address: Address, options: dict[str, Any], credentials: Any) -> Storage:
    container, _, server = address.host.partition("@")
    account = options.pop("account", None)
    if server:
        found = _ACCOUNT_HOST.fullmatch(server)
        account = found[1] if found else account
    if account is None:
        account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME") or os.environ.get("AZURE_STORAGE_ACCOUNT")
    if account is None:
        raise StorageError(
            "storage configuration error: the URL names a container, not the account; pass account=..., or write "
            "abfs://container@account.dfs.core.windows.net/prefix",
            ErrorKind.STORAGE_CONFIG,
        )
    place = {"account": account, "container": container, "prefix": address.path}
    return _made(factories.azure_storage, place, options, credentials, builders.new_azure_blob)


# --------------------------------------------------------------------------------------------------------------- memory

_named: dict[str, Storage] = {}
_lock = threading.Lock()


def _memory(name: str) -> Storage:
    """The storage in memory of this name; made when it is first asked for, and kept."""
    if not name:
        raise _refused("a place in memory has a name, memory://name, under which it is found again")
    with _lock:
        if name not in _named:
            _named[name] = factories.in_memory_storage()
        return _named[name]


def is_named_memory(address: Address) -> bool:
    """Whether somebody made a storage in memory of that name."""
    return address.kind == "memory" and f"{address.host}/{address.path}".strip("/") in _named


def _value(name: str, text: str) -> Any:
    """An option out of a URL."""
    if name not in _FLAGS:
        return text
    if text.lower() not in ("true", "false", "1", "0"):
        raise _refused(f"`{name}` is true or false")
    return text.lower() in ("true", "1")

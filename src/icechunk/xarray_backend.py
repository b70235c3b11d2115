"""The xarray engine `icechunk`: `xr.open_dataset("s3://bucket/air@v1", engine="icechunk")`.

It finds the session that is meant, of which xarray's own engine for Zarr reads the store. Installed packages tell xarray of it
by an entry point, so this module imports little before something is opened.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import xarray as xr
from xarray.backends import BackendEntrypoint, ZarrBackendEntrypoint

from icechunk._driver import run

if TYPE_CHECKING:
    from icechunk.session import Session

__all__ = ["IcechunkBackendEntrypoint"]

_DECODING = (
    *("mask_and_scale", "decode_times", "concat_characters", "decode_coords", "drop_variables", "use_cftime"),
    *("decode_timedelta", "group"),
)
_VERSION = ("branch", "tag", "snapshot_id", "as_of")
_REPOSITORY = {
    "config": None,
    "authorize_virtual_chunk_access": None,
    "virtual_drift": "error",
    "anonymous_virtual_access": False,
}
"""Arguments for opening a repository, and what they are when nobody gave them."""
_WITHOUT_EFFECT = ("consolidated", "zarr_format")

_NAMED = 12
"""So many groups an error lists at most."""


class IcechunkBackendEntrypoint(BackendEntrypoint):
    """Opens versions of Icechunk repositories.

    `filename_or_obj` is a URL or a path, which may end in a version, as for `icechunk.open`; or a session, its store, a
    repository or a storage. Beside the arguments that xarray documents there are

    - `group`: the path of the group to open;
    - `branch`, `tag`, `snapshot_id`, `as_of`: the version, where the URL says none;
    - `storage_options`: a dict of options for `icechunk.storage_from_url`, `credentials` among them;
    - `config`, `authorize_virtual_chunk_access`, `virtual_drift`, `anonymous_virtual_access`: as for `Repository.open`.

    `consolidated` and `zarr_format` are taken, and have no effect: a snapshot holds all metadata in one place anyway.
    """

    description = "Open Icechunk repositories, at any version"
    supports_groups = True

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether this is ours for sure: one of our objects, a directory with a repository, a URL that ends in a version."""
        if isinstance(filename_or_obj, str | os.PathLike):
            return _is_ours(filename_or_obj)
        return _is_of_this_package(filename_or_obj)

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        mask_and_scale: Any = True,
        decode_times: Any = True,
        concat_characters: Any = True,
        decode_coords: Any = True,
        drop_variables: str | Iterable[str] | None = None,
        use_cftime: Any = None,
        decode_timedelta: Any = None,
        group: str | None = None,
        branch: str | None = None,
        tag: str | None = None,
        snapshot_id: str | None = None,
        as_of: datetime | str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        config: Any = None,
        authorize_virtual_chunk_access: Mapping[str, Any] | None = None,
        virtual_drift: Any = "error",
        anonymous_virtual_access: bool | Collection[str] = False,
        consolidated: Any = None,
        zarr_format: Any = None,
    ) -> xr.Dataset:
        """One group as a Dataset."""
        arguments = dict(locals())  # xarray reads their names from the signature, so there they stand one by one
        del arguments["self"], arguments["filename_or_obj"]
        found = _Found.of(filename_or_obj, arguments)
        return found.marked(ZarrBackendEntrypoint().open_dataset(found.store, **found.decoding))

    def open_groups_as_dict(self, filename_or_obj: Any, **arguments: Any) -> dict[str, xr.Dataset]:
        """A group and all groups below it, by path; the arguments are those of `open_dataset`."""
        found = _Found.of(filename_or_obj, arguments)
        groups = ZarrBackendEntrypoint().open_groups_as_dict(found.store, **found.decoding)
        return {path: found.marked(dataset) for path, dataset in groups.items()}

    def open_datatree(self, filename_or_obj: Any, **arguments: Any) -> xr.DataTree:
        """A group and all groups below it as a DataTree; the arguments are those of `open_dataset`."""
        return xr.DataTree.from_dict(self.open_groups_as_dict(filename_or_obj, **arguments))


# ------------------------------------------------------------------------------------------------------------- guessing


def _is_ours(url: str | os.PathLike[str]) -> bool:
    """Decided without a request, whatever the URL is."""
    from icechunk.errors import InvalidInputError
    from icechunk.storage.urls import is_named_memory, parse_address

    try:
        address = parse_address(url)
    except InvalidInputError:
        return False
    if address.kind == "file":
        return _holds_repository(os.path.expanduser(address.path))
    if address.kind == "memory":
        return is_named_memory(address)
    if address.version is None:
        return False
    if address.version.startswith(("branch:", "tag:", "snapshot:")):
        return True
    # `s3://bucket/air@home.nc` is rather a file, and on a web server anything may be called anything
    return address.kind != "http" and not os.path.splitext(address.version)[1][1:2].isalpha()


def _holds_repository(directory: str) -> bool:
    """Whether a directory has what every repository has: the one object of format 2, or the branch `main` of format 1."""
    from icechunk.format.envelope import MAGIC

    try:
        with open(os.path.join(directory, "repo"), "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return os.path.isfile(os.path.join(directory, "refs", "branch.main", "ref.json"))


def _is_of_this_package(value: Any) -> bool:
    if not any(base.__module__.partition(".")[0] == "icechunk" for base in type(value).__mro__):
        return False  # found out without importing anything
    from icechunk.repository import Repository
    from icechunk.session import Session
    from icechunk.storage.base import Storage
    from icechunk.store import IcechunkStore

    return isinstance(value, Repository | Session | Storage | IcechunkStore)


# -------------------------------------------------------------------------------------------------------------- opening


@dataclass(frozen=True)
class _Found:
    """The session that is meant, and how its values are to be decoded.

    Attributes
    ----------
    session : Session
        What is read.
    store : IcechunkStore
        Its store, or the one that was given.
    decoding : dict
        Arguments for xarray's engine for Zarr.
    source : str or None
        A URL that leads to the same snapshot again, without options and secrets; None where no URL was given.
    """

    session: Session
    store: Any
    decoding: dict[str, Any]
    source: str | None = None

    @classmethod
    def of(cls, where: Any, arguments: dict[str, Any]) -> _Found:
        """Open what is meant, if it is not open already."""
        from icechunk.session import Session
        from icechunk.store import IcechunkStore

        known = (*_DECODING, *_VERSION, *_REPOSITORY, "storage_options", *_WITHOUT_EFFECT)
        if unknown := arguments.keys() - set(known):
            raise TypeError(f"the engine icechunk takes no {', '.join(sorted(unknown))}; it takes {', '.join(known)}")
        decoding = {name: arguments[name] for name in _DECODING if name in arguments}
        decoding |= {"consolidated": False, "zarr_format": 3}
        version = {name: arguments[name] for name in _VERSION if arguments.get(name) is not None}
        options = {name: arguments[name] for name, usual in _REPOSITORY.items() if arguments.get(name, usual) != usual}
        options |= arguments.get("storage_options") or {}
        if isinstance(where, Session | IcechunkStore):
            _refuse(where, {**version, **options})
            found = (
                cls(where, where.store, decoding) if isinstance(where, Session) else cls(where.session, where, decoding)
            )
        else:
            session, source = _open(where, version, options)
            found = cls(session, session.store, decoding, source)
        _check_group(found.session, decoding.get("group"), found.source)
        return found

    def marked(self, dataset: xr.Dataset) -> xr.Dataset:
        """The dataset, its lazy variables knowing their snapshot, and with its source as xarray keeps it."""
        snapshot = self.session.snapshot_id
        variables = {
            name: variable if variable._in_memory or not variable.ndim else Variable.of(variable, snapshot)
            for name, variable in dataset.variables.items()
        }
        marked = dataset._replace(variables)
        marked.set_close(dataset._close)
        if self.source is not None:
            marked.encoding["source"] = self.source
        return marked


def _open(where: Any, version: dict[str, Any], options: dict[str, Any]) -> tuple[Session, str | None]:
    """A session at a place or in a repository, and a URL that leads to its snapshot, where there is one."""
    from icechunk import opening
    from icechunk.repository import Repository
    from icechunk.storage.base import Storage
    from icechunk.storage.urls import parse_address

    if isinstance(where, Repository):
        _refuse(where, options)
        return run(opening.session_at(where, opening.wanted(None, **version))), None
    session = opening.open(where, **version, **options)
    if isinstance(where, Storage):
        return session, None
    place = parse_address(where).shown
    if "://" not in place:
        place = os.path.abspath(os.path.expanduser(place))
    return session, f"{place}@snapshot:{session.snapshot_id}"


def _refuse(where: Any, given: dict[str, Any]) -> None:
    """Refuse options for what is open already."""
    if given:
        raise ValueError(f"this {type(where).__name__} is open already; leave {', '.join(sorted(given))} out")


def _check_group(session: Session, group: str | None, source: str | None) -> None:
    """Raise `FileNotFoundError`, which names the groups that there are, unless `group` is one."""
    view = run(session._workspace.view())
    path = "/" + (group or "").strip("/")
    node = view.find(path)
    if node is not None and not node.is_array:
        return
    where = source or f"snapshot {session.snapshot_id}"
    if node is not None:
        raise FileNotFoundError(f"{path} in {where} is an array; open the group that it is in, and select it there")
    groups = list(islice((one.path for one in view.nodes() if not one.is_array), _NAMED + 1))
    there = ", ".join(groups[:_NAMED]) + (", ..." if len(groups) > _NAMED else "")
    raise FileNotFoundError(
        f"there is no group {path} in {where}; {f'it has {there}' if groups else 'nothing was written to it yet'}"
    )


class Variable(xr.Variable):
    """A variable that puts its snapshot into the name of the dask array that is made of it.

    xarray makes that name of the URL and the arguments, and dask takes pieces of one name for the same: after a commit, the
    difference between `air@main` now and before would be 0.
    """

    __slots__ = ("_snapshot",)
    _snapshot: str

    @classmethod
    def of(cls, variable: xr.Variable, snapshot: str) -> Variable:
        """`variable`, of that snapshot."""
        data: Any = variable._data
        marked = cls(variable.dims, data, variable._attrs, variable._encoding, fastpath=True)
        marked._snapshot = snapshot
        return marked

    def _replace(self, *args: Any, **kwargs: Any) -> Any:
        """Copies, which xarray makes while it opens, and what is selected know the snapshot too."""
        made = super()._replace(*args, **kwargs)
        if hasattr(self, "_snapshot"):
            made._snapshot = self._snapshot
        return made

    def chunk(self, *args: Any, **kwargs: Any) -> Any:
        """See `xarray.Variable.chunk`."""
        making = kwargs.get("from_array_kwargs") or {}
        if isinstance(making.get("name"), str) and hasattr(self, "_snapshot"):
            kwargs["from_array_kwargs"] = {**making, "name": f"{making['name']}-{self._snapshot}"}
        made: Any = super().chunk(*args, **kwargs)
        return xr.Variable(made.dims, made._data, made._attrs, made._encoding, fastpath=True)

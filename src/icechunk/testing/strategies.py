"""Hypothesis strategies for configurations, chunks and points in time."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

import icechunk

if TYPE_CHECKING:
    import zarr

    from icechunk.config import ManifestSplittingConfig, RepositoryConfig
    from icechunk.repository import Repository
    from icechunk.storage.base import Storage

__all__ = [
    "chunk_coordinates",
    "chunk_paths",
    "chunk_slicers",
    "draw_older_than",
    "repository_configs",
    "splitting_configs",
]


# --- configuration ----------------------------------------------------------------------------------------------------


@st.composite
def splitting_configs(draw: st.DrawFn, *, arrays: Iterable[zarr.Array[Any]]) -> ManifestSplittingConfig:
    """Ways to split the manifests of the given arrays: for each some of its axes, by number, by name or any."""
    conditions: dict[Any, dict[Any, int]] = {}
    for array in arrays:
        axes = draw(st.lists(st.integers(0, array.ndim - 1), unique=True)) if array.ndim else []
        names = getattr(array.metadata, "dimension_names", None) or (None,) * array.ndim
        sizes = {_axis(draw, axis, names[axis]): draw(_split_size(array, axis)) for axis in axes}
        if not sizes or draw(st.integers(0, 4)) == 0:
            sizes[icechunk.ManifestSplitDimCondition.Any()] = draw(st.integers(1, 100))
        conditions[_array(draw, array)] = sizes
    return icechunk.ManifestSplittingConfig.from_dict(conditions)


def _array(draw: st.DrawFn, array: zarr.Array[Any]) -> Any:
    """A condition that this array meets."""
    condition = icechunk.ManifestSplitCondition
    pick = draw(st.sampled_from(["name", "path", "any"]))
    if pick == "any" or not array.path:
        return condition.AnyArray()
    if pick == "name":
        return condition.name_matches(_literal(array.path.rpartition("/")[2]))
    return condition.path_matches(_literal(array.path))


def _axis(draw: st.DrawFn, axis: int, name: str | None) -> Any:
    """A condition that this axis meets."""
    condition = icechunk.ManifestSplitDimCondition
    return condition.DimensionName(_literal(name)) if name and draw(st.booleans()) else condition.Axis(axis)


def _literal(text: str) -> str:
    """A regular expression for this text alone, in characters that every flavour reads alike."""
    return "".join(char if char.isalnum() or char in "/_" else "." for char in text) + "$"


def _split_size(array: zarr.Array[Any], axis: int) -> st.SearchStrategy[int]:
    """Any size, also one that is larger than the axis has chunks."""
    return st.integers(1, array.cdata_shape[axis] + 5)


@st.composite
def repository_configs(
    draw: st.DrawFn,
    num_updates_per_repo_info_file: st.SearchStrategy[int] = st.integers(min_value=1, max_value=5),  # noqa: B008
    inline_chunk_threshold_bytes: st.SearchStrategy[int] | None = None,
    splitting: st.SearchStrategy[ManifestSplittingConfig] | None = None,
    ic_module: ModuleType | None = None,
) -> RepositoryConfig:
    """Configurations of a repository; what has no strategy is left at its default.

    `ic_module` is the module to take the classes from, where several versions of Icechunk are tested side by side. A
    version that does not know a setting goes without it.
    """
    module: Any = icechunk if ic_module is None else ic_module
    config = module.RepositoryConfig.default()
    if hasattr(config, "num_updates_per_repo_info_file"):
        config.num_updates_per_repo_info_file = draw(num_updates_per_repo_info_file)
    if inline_chunk_threshold_bytes is not None:
        config.inline_chunk_threshold_bytes = draw(inline_chunk_threshold_bytes)
    if splitting is not None:
        config.manifest = module.ManifestConfig(splitting=draw(splitting))
    found: RepositoryConfig = config
    return found


# --- chunks -----------------------------------------------------------------------------------------------------------


def chunk_coordinates(numblocks: tuple[int, ...]) -> st.SearchStrategy[tuple[int, ...]]:
    """The coordinates of one chunk of a grid with so many chunks per dimension, each at least one."""
    return st.tuples(*(st.integers(0, count - 1) for count in numblocks))


def chunk_paths(numblocks: tuple[int, ...]) -> st.SearchStrategy[str]:
    """The coordinates of one chunk as in a zarr key, such as `0/12`."""
    return chunk_coordinates(numblocks).map(lambda coords: "/".join(map(str, coords)))


def chunk_slicers(numblocks: tuple[int, ...], chunk_shape: tuple[int, ...]) -> st.SearchStrategy[tuple[slice, ...]]:
    """The slices of one chunk of a regular grid."""
    return chunk_coordinates(numblocks).map(
        lambda coords: tuple(
            slice(index * length, (index + 1) * length) for index, length in zip(coords, chunk_shape, strict=True)
        )
    )


# --- time -------------------------------------------------------------------------------------------------------------


def draw_older_than(data: st.DataObject, storage: Storage, repo: Repository) -> datetime:
    """A time to expire or collect up to: on, just before or just after that of a commit or an object, or far off.

    `storage` is that of the repository; it is asked when its objects were written.
    """
    moments = {snapshot.written_at for branch in repo.list_branches() for snapshot in repo.ancestry(branch=branch)}
    moments |= {info.created_at for info in storage.list_objects_metadata()}
    near = st.builds(
        lambda moment, shift: moment + timedelta(microseconds=shift),
        st.sampled_from(sorted(moments)),
        st.sampled_from([-1, 0, 1]),
    )
    far = st.sampled_from([datetime(2000, 1, 1, tzinfo=UTC), max(moments) + timedelta(days=1)])
    found: datetime = data.draw(near | far, label="older_than")
    return found

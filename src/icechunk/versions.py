"""Which versions of the format there are, and how to get from the old one to the new one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._driver import run
from icechunk.checks import instance
from icechunk.info import SpecVersion

if TYPE_CHECKING:
    from icechunk.repository import Repository

__all__ = ["spec_version", "supported_spec_versions", "upgrade_icechunk_repository", "user_agent"]


def spec_version() -> SpecVersion:
    """The version of the format in which new repositories are written."""
    return SpecVersion.current()


def supported_spec_versions() -> list[SpecVersion]:
    """The versions of the format that can be read and written, newest first."""
    return [SpecVersion.v2, SpecVersion.v1]


def user_agent() -> str:
    """How this library introduces itself to storage services."""
    import icechunk

    return f"icechunk-python-{icechunk.__version__}"


def upgrade_icechunk_repository(
    repo: Repository, *, dry_run: bool, delete_unused_v1_files: bool = True, prefetch_concurrency: int | None = None
) -> Repository:
    """Bring a repository of format version 1 to version 2, in place.

    Snapshots, manifests, logs and chunks stay as they are; branches, tags, configuration and history move into one new
    object. Nobody may write to the repository meanwhile, and icechunk 1.x cannot open it afterwards.

    Parameters
    ----------
    repo : Repository
        An open repository. It is of no use afterwards; go on with the one that is returned.
    dry_run : bool
        Only check that the upgrade is possible, and print what it would write; the repository is returned as it is.
    delete_unused_v1_files : bool
        Whether to delete the files of the old branches, tags and configuration.
    prefetch_concurrency : int, optional
        How many snapshots are read at once.
    """
    from icechunk.repository import Repository

    instance(repo, "repo", Repository)
    return run(
        repo._upgrade(
            dry_run=dry_run, delete_unused_v1_files=delete_unused_v1_files, prefetch_concurrency=prefetch_concurrency
        )
    )

"""Small helpers of tests that compare a repository with a model."""

from __future__ import annotations

from collections.abc import Generator

from icechunk.repository import Repository
from icechunk.session import Session
from icechunk.storage import in_memory_storage
from icechunk.store import IcechunkStore
from icechunk.testing.models import GroupNode, ModelStore
from icechunk.testing.trees import is_descendant


def tree_to_model_and_icechunk(
    tree: GroupNode, add_hypothesis_note: bool = True
) -> tuple[ModelStore, Session, Repository]:
    """The same hierarchy in a model and in a session of a new repository in memory, not committed.

    With `add_hypothesis_note` a failing hypothesis test prints the tree.
    """
    if add_hypothesis_note:
        from hypothesis import note

        note(f"{tree=}")
    repo = Repository.create(in_memory_storage())
    session = repo.writable_session("main")
    model = ModelStore()
    tree.materialize(model)
    tree.materialize(session.store)
    return model, session, repo


def precommit_postcommit_readonly(
    session: Session, repo: Repository, *, allow_empty: bool = False
) -> Generator[tuple[str, IcechunkStore], None, None]:
    """The store of a session before its commit, after it, and of a new read-only session: they must look alike.

    Yields a name and a store each time; the commit is made between the first and the second.
    """
    branch = session.branch
    yield "pre-commit", session.store
    session.commit("compare before and after", allow_empty=allow_empty)
    yield "post-commit", session.store
    yield "readonly", repo.readonly_session(branch).store


def update_paths_after_move(source: str, dest: str, arrays: set[str], groups: set[str]) -> list[set[str]]:
    """The paths of arrays and of groups after `source`, with everything below it, was moved to `dest`."""

    def moved(path: str) -> str:
        return dest + path[len(source) :] if path == source or is_descendant(path, source) else path

    return [set(map(moved, arrays)), set(map(moved, groups))]

"""Mistakes at the API: each gets the documented exception at once, and its message says what to do instead.

One table for each group of calls: what is done, the exception, its kind, and words that its message must have. What a call
was refused leaves no trace.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

import icechunk
from icechunk._driver import run
from icechunk.distributed import merge_sessions
from tests.invariants import assert_whole
from tests.session.helpers import array_json, buffer, get, group_json, put, with_array

pytestmark = pytest.mark.filterwarnings("ignore::icechunk.UncommittedChangesWarning")
Repository = icechunk.Repository
Call = Callable[[Any], Any]
UNKNOWN = "VY76P925PRY57WFEK410"
NAIVE, LONG_AGO = datetime(2000, 1, 1), datetime(2000, 1, 1, tzinfo=UTC)


def cases(*rows: tuple[str, Call, type[BaseException], str | None, str]) -> Any:
    return pytest.mark.parametrize(
        ("call", "error", "kind", "words"), [pytest.param(*row[1:], id=row[0].replace(" ", "-")) for row in rows]
    )


@pytest.fixture(params=[1, 2], ids=["spec1", "spec2"])
def repo(request: pytest.FixtureRequest) -> icechunk.Repository:
    repo = Repository.create(icechunk.in_memory_storage(), spec_version=request.param)
    with_array(repo)
    return repo


def check(call: Call, argument: Any, error: type[BaseException], kind: str | None, words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        call(argument)
    if kind is not None:
        assert isinstance(caught.value, icechunk.IcechunkError) and caught.value.kind == kind
        assert type(caught.value) is error


# --- repositories ----------------------------------------------------------------------------------------------------------


@cases(
    ("create, a path", lambda _: Repository.create("/tmp/x"), TypeError, None, "local_filesystem_storage"),
    ("open, a path", lambda _: Repository.open("/tmp/x"), TypeError, None, "local_filesystem_storage"),
    ("open or create, None", lambda _: Repository.open_or_create(None), TypeError, None, "icechunk Storage"),
    ("exists, a path", lambda _: Repository.exists("/tmp/x"), TypeError, None, "icechunk Storage"),
    ("fetch config, a path", lambda _: Repository.fetch_config("/x"), TypeError, None, "icechunk Storage"),
    (
        "open, nothing there",
        lambda _: Repository.open(icechunk.in_memory_storage()),
        icechunk.RepositoryNotFoundError,
        "repository-not-found",
        "doesn't exist.*Repository.create",
    ),
    (
        "fetch config, nothing there",
        lambda _: Repository.fetch_config(icechunk.in_memory_storage()),
        icechunk.RepositoryNotFoundError,
        "repository-not-found",
        "doesn't exist",
    ),
    (
        "create, something there",
        lambda repo: Repository.create(repo.storage),
        icechunk.InvalidInputError,
        "parent-directory-not-clean",
        "clean prefixes.*open what is there, or choose another",
    ),
    (
        "create, version 3",
        lambda _: Repository.create(icechunk.in_memory_storage(), spec_version=3),
        ValueError,
        None,
        "Unsupported version 3; the format has the versions 1 and 2",
    ),
    (
        "create, a dict as configuration",
        lambda _: Repository.create(icechunk.in_memory_storage(), config={"inline_chunk_threshold_bytes": 1}),
        TypeError,
        None,
        "config is a RepositoryConfig",
    ),
    (
        "create, a list of authorizations",
        lambda _: Repository.create(icechunk.in_memory_storage(), authorize_virtual_chunk_access=["s3://x/"]),
        TypeError,
        None,
        "containers_credentials",
    ),
    (
        "create, a secret as credentials",
        lambda _: Repository.create(icechunk.in_memory_storage(), authorize_virtual_chunk_access={"s3://x/": "secret"}),
        TypeError,
        None,
        "containers_credentials",
    ),
    ("reopen, a dict", lambda repo: repo.reopen({"level": 1}), TypeError, None, "RepositoryConfig"),
    ("Repository()", lambda _: Repository("x"), TypeError, None, "Repository.create"),
    ("Session()", lambda _: icechunk.Session("x"), TypeError, None, "repo.writable_session"),
    ("IcechunkStore()", lambda _: icechunk.IcechunkStore("x"), ValueError, None, "session.store"),
    (
        "upgrade, a path",
        lambda _: icechunk.upgrade_icechunk_repository("x", dry_run=True),
        TypeError,
        None,
        "Repository",
    ),
    (
        "config, negative",
        lambda _: icechunk.RepositoryConfig(inline_chunk_threshold_bytes=-1),
        OverflowError,
        None,
        "0",
    ),
    ("config, text", lambda _: icechunk.RepositoryConfig(inline_chunk_threshold_bytes="x"), TypeError, None, "integer"),
)
def test_repositories(repo, call, error, kind, words):
    check(call, repo, error, kind, words)


def test_a_repository_is_upgraded_once(repo):
    if repo.spec_version == 1:
        old, repo = repo, icechunk.upgrade_icechunk_repository(repo, dry_run=False)
        with pytest.raises(RuntimeError, match="Use the new Repository"):
            old.list_branches()
    with pytest.raises(icechunk.SessionStateError, match=r"invalid repository version \(2.0\)"):
        icechunk.upgrade_icechunk_repository(repo, dry_run=False)


@cases(
    ("none", lambda repo: repo.readonly_session(), ValueError, None, "Must provide one of"),
    ("two", lambda repo: repo.readonly_session("main", tag="x"), ValueError, None, "Must provide one of"),
    ("a number", lambda repo: repo.readonly_session(5), TypeError, None, "branch or tag is a str"),
    ("a number as id", lambda repo: repo.readonly_session(snapshot_id=7), TypeError, None, "snapshot id is a str"),
    (
        "no such branch",
        lambda repo: repo.readonly_session("nope"),
        icechunk.RefNotFoundError,
        "ref-not-found",
        "`nope`; `repo.list_branches",
    ),
    (
        "no such tag",
        lambda repo: repo.readonly_session(tag="nope"),
        icechunk.RefNotFoundError,
        "ref-not-found",
        "`nope`;.*list_tags",
    ),
    (
        "no id",
        lambda repo: repo.readonly_session(snapshot_id="zz"),
        icechunk.InvalidInputError,
        "invalid-snapshot-id",
        "20 characters.*repo.ancestry",
    ),
    ("as of, a tag", lambda repo: repo.readonly_session(tag="x", as_of=LONG_AGO), ValueError, None, "with a branch"),
    ("as of, text", lambda repo: repo.readonly_session("main", as_of="2000"), TypeError, None, "expected a datetime"),
    (
        "as of, too early",
        lambda repo: repo.readonly_session("main", as_of=LONG_AGO),
        icechunk.SnapshotNotFoundError,
        "no-snapshot-at-time",
        "2000-01-01 00:00:00 UTC; `repo.ancestry",
    ),
    (
        "writable, no such branch",
        lambda repo: repo.writable_session("nope"),
        icechunk.RefNotFoundError,
        "ref-not-found",
        "list_branches",
    ),
    ("writable, None", lambda repo: repo.writable_session(None), TypeError, None, "branch or tag is a str"),
    ("ancestry, none", lambda repo: repo.ancestry(), ValueError, None, "Must provide one of"),
    ("ancestry, no such branch", lambda repo: repo.ancestry(branch="nope"), icechunk.RefNotFoundError, None, "nope"),
    ("diff, one end", lambda repo: repo.diff(from_branch="main"), ValueError, None, "Must provide one of"),
    (
        "diff, to itself",
        lambda repo: repo.diff(from_branch="main", to_branch="main"),
        icechunk.InvalidInputError,
        "bad-snapshot-chain-for-diff",
        "exchange them, or look at",
    ),
)
def test_looking(repo, call, error, kind, words):
    check(call, repo, error, kind, words)


def test_an_unknown_snapshot(repo):
    calls = [
        lambda: repo.readonly_session(snapshot_id=UNKNOWN),
        lambda: repo.lookup_snapshot(UNKNOWN),
        lambda: repo.create_branch("x", UNKNOWN),
        lambda: repo.create_tag("x", UNKNOWN),
        lambda: repo.reset_branch("main", UNKNOWN),
        lambda: repo.list_manifest_files(UNKNOWN),
    ]
    for call in calls:
        with pytest.raises(icechunk.NotFoundError if repo.spec_version == 2 else icechunk.IcechunkError, match=UNKNOWN):
            call()
    assert repo.list_branches() == {"main"} and repo.list_tags() == set()


def tip(repo):
    return repo.lookup_branch("main")


@cases(
    ("branch, a number", lambda repo: repo.create_branch(4, tip(repo)), TypeError, None, "branch or tag is a str"),
    ("branch, no id", lambda repo: repo.create_branch("x", None), TypeError, None, "snapshot id is a str"),
    (
        "branch, half a character",
        lambda repo: repo.create_branch("x\ud800", tip(repo)),
        icechunk.InvalidInputError,
        "invalid-ref-name",
        "no Unicode text",
    ),
    (
        "deleting main",
        lambda repo: repo.delete_branch("main"),
        icechunk.SessionStateError,
        "cannot-delete-main",
        "main branch cannot be deleted.*reset_branch",
    ),
    ("deleting nothing", lambda repo: repo.delete_branch("x"), icechunk.RefNotFoundError, "ref-not-found", "`x`"),
    ("resetting nothing", lambda repo: repo.reset_branch("x", tip(repo)), icechunk.RefNotFoundError, None, "`x`"),
    ("resetting to a number", lambda repo: repo.reset_branch("main", 5), TypeError, None, "snapshot id is a str"),
    (
        "resetting from elsewhere",
        lambda repo: repo.reset_branch("main", tip(repo), from_snapshot_id="1CECHNKREP0F1RSTCMT0"),
        icechunk.ConflictError,
        "branch-update-conflict",
        "look it up again",
    ),
    ("tag, a number", lambda repo: repo.create_tag(5, tip(repo)), TypeError, None, "branch or tag is a str"),
    ("deleting no tag", lambda repo: repo.delete_tag("t"), icechunk.RefNotFoundError, "ref-not-found", "`t`"),
    ("rewriting nothing", lambda repo: repo.rewrite_manifests("m", branch="x"), icechunk.RefNotFoundError, None, "`x`"),
    (
        "rewriting how",
        lambda repo: repo.rewrite_manifests("m", branch="main", commit_method="x"),
        ValueError,
        None,
        "'new_commit' or 'amend'",
    ),
)
def test_refs(repo, call, error, kind, words):
    before = tip(repo)
    check(call, repo, error, kind, words)
    assert repo.list_branches() == {"main"} and repo.list_tags() == set() and tip(repo) == before


def test_names_that_are_taken(repo):
    with pytest.raises((icechunk.AlreadyExistsError, icechunk.ConflictError)) as caught:
        repo.create_branch("main", tip(repo))
    assert caught.value.kind in ("branch-already-exists", "branch-update-conflict")
    repo.create_tag("t", tip(repo))
    with pytest.raises(icechunk.AlreadyExistsError, match="immutable"):
        repo.create_tag("t", tip(repo))
    repo.delete_tag("t")
    with pytest.raises(icechunk.AlreadyExistsError, match="deleted"):
        repo.create_tag("t", tip(repo))


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "x\0y", "x" * 5000, "a\\b", "ref.json", "ünïcode", "a:b|c*?", "CON"]
)
@pytest.mark.parametrize("spec", [1, 2])
def test_odd_names_work_or_are_refused(tmp_path, name, spec):
    """On a file system too, where many of them would be trouble."""
    repo = Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")), spec_version=spec)
    try:
        repo.create_branch(name, tip(repo))
        repo.create_tag(name, tip(repo))
    except icechunk.IcechunkError as error:
        assert name[:10] in str(error)
    else:
        assert repo.lookup_branch(name) == tip(repo) == repo.lookup_tag(name)
        assert name in repo.list_branches() and name in repo.list_tags()
        repo.delete_branch(name)
    assert {path.name for path in tmp_path.iterdir()} == {"repo"}
    run(assert_whole(repo.storage))


def test_a_slash_in_a_name(repo):
    if repo.spec_version == 2:
        repo.create_branch("a/b", tip(repo))
        assert repo.lookup_branch("a/b") == tip(repo)
    else:
        with pytest.raises(icechunk.InvalidInputError, match="cannot contain a `/`"):
            repo.create_branch("a/b", tip(repo))


# --- looking after ---------------------------------------------------------------------------------------------------------


@cases(
    ("expire, text", lambda repo: repo.expire_snapshots("2000"), TypeError, None, "expected a datetime"),
    ("collect, text", lambda repo: repo.garbage_collect("2000"), TypeError, None, "expected a datetime"),
    (
        "collect, nothing at once",
        lambda repo: repo.garbage_collect(LONG_AGO, max_concurrent_manifest_fetches=0),
        ValueError,
        None,
        "invalid zero value",
    ),
    (
        "manifest, no id",
        lambda repo: repo.inspect_manifest("zz"),
        icechunk.InvalidInputError,
        None,
        "invalid manifest id",
    ),
    ("default metadata", lambda repo: repo.set_default_commit_metadata({"a": object()}), TypeError, None, "JSON"),
)
def test_looking_after(repo, call, error, kind, words):
    check(call, repo, error, kind, words)


def test_times_without_a_zone_are_local_time(repo):
    assert repo.expire_snapshots(NAIVE) == set()
    assert repo.garbage_collect(NAIVE).snapshots_deleted == 0


@cases(
    ("status, text", lambda repo: repo.set_status("read_only"), TypeError, None, "RepoStatus"),
    ("metadata, a list", lambda repo: repo.set_metadata([1]), TypeError, None, "expected a dict"),
    ("metadata, an object", lambda repo: repo.set_metadata({"a": object()}), TypeError, None, "JSON values only"),
    ("metadata, a key", lambda repo: repo.update_metadata({1: 2}), TypeError, None, "keys of metadata are str"),
    (
        "flag, unknown",
        lambda repo: repo.set_feature_flag("nope", True),
        icechunk.InvalidInputError,
        "invalid-feature-flag",
        "nope; there are create_tag",
    ),
    ("flag, text", lambda repo: repo.set_feature_flag("create_tag", "yes"), TypeError, None, "bool"),
)
def test_what_only_the_newer_format_has(repo, call, error, kind, words):
    if repo.spec_version == 2:
        log = [update.kind for update in repo.ops_log()]
        check(call, repo, error, kind, words)
        assert len([update.kind for update in repo.ops_log()]) == len(log)
    elif error is not TypeError:
        check(call, repo, icechunk.FormatError, "unsupported-spec-version", "upgrade_icechunk_repository")


# --- sessions --------------------------------------------------------------------------------------------------------------


def changed(repo):
    session = repo.writable_session("main")
    put(session.store, "a/c/0/0", b"x")
    return session


def after_commit(repo):
    session = changed(repo)
    session.commit("m")
    return session


@cases(
    ("message, a number", lambda repo: changed(repo).commit(5), TypeError, None, "'message'"),
    ("message, None", lambda repo: changed(repo).commit(None), TypeError, None, "'message'"),
    ("message, half a character", lambda repo: changed(repo).commit("\ud800"), ValueError, None, "no Unicode text"),
    ("metadata, a list", lambda repo: changed(repo).commit("m", [1]), TypeError, None, "expected a dict"),
    ("metadata, an object", lambda repo: changed(repo).commit("m", {"a": object()}), TypeError, None, "JSON values"),
    ("metadata, no text", lambda repo: changed(repo).commit("m", {"a": "\ud800"}), TypeError, None, "not Unicode"),
    ("solver, text", lambda repo: changed(repo).commit("m", rebase_with="x"), TypeError, None, "ConflictDetector"),
    ("tries, text", lambda repo: changed(repo).commit("m", rebase_tries="3"), TypeError, None, "'rebase_tries'"),
    (
        "tries, less than none",
        lambda repo: changed(repo).commit("m", rebase_tries=-1),
        OverflowError,
        None,
        "too small",
    ),
    ("flush, a number", lambda repo: changed(repo).flush(5), TypeError, None, "'message'"),
    ("rebase, text", lambda repo: changed(repo).rebase("x"), TypeError, None, "ConflictDetector"),
    (
        "nothing changed",
        lambda repo: repo.writable_session("main").commit("m"),
        icechunk.NoChangesToCommitError,
        "no-changes-to-commit",
        "allow_empty=True",
    ),
    (
        "read-only",
        lambda repo: repo.readonly_session("main").commit("m"),
        icechunk.SessionStateError,
        "commit-not-allowed",
        "repo.writable_session",
    ),
    (
        "fork, read-only",
        lambda repo: repo.readonly_session("main").fork(),
        icechunk.SessionStateError,
        "cannot-fork-read-only-session",
        "can be pickled",
    ),
    (
        "discard, read-only",
        lambda repo: repo.readonly_session("main").discard_changes(),
        icechunk.ReadOnlyError,
        "read-only-session",
        "repo.writable_session",
    ),
    (
        "commit, a fork",
        lambda repo: changed(repo).fork().commit("m"),
        icechunk.SessionStateError,
        "commit-not-allowed",
        r"session.merge\(fork\)",
    ),
    ("merge, text", lambda repo: changed(repo).merge("x"), TypeError, None, r"Session.fork\(\)"),
    ("merge sessions, none", lambda _: merge_sessions(), ValueError, None, "at least one fork"),
    ("pickle", lambda repo: pickle.dumps(changed(repo)), ValueError, None, r"Session.fork\(\)"),
    (
        "move, not rearranging",
        lambda repo: changed(repo).move("/a", "/b"),
        icechunk.SessionStateError,
        "non-rearrange-session",
        "repo.rearrange_session",
    ),
    (
        "shift, one number",
        lambda repo: changed(repo).shift_array("/a", (1,)),
        icechunk.InvalidInputError,
        "invalid-chunk-index",
        "one per dimension",
    ),
    ("shift, fractions", lambda repo: changed(repo).shift_array("/a", (0.5, 0)), TypeError, None, "integer"),
    (
        "shift, nothing",
        lambda repo: changed(repo).shift_array("/q", (1, 1)),
        icechunk.NodeNotFoundError,
        "node-not-found",
        "`/q`",
    ),
    (
        "reindex, outside",
        lambda repo: changed(repo).reindex_array("/a", lambda _: (9, 9)),
        icechunk.InvalidInputError,
        "invalid-chunk-index",
        r"\[4, 4\] chunks",
    ),
    (
        "reindex, raising",
        lambda repo: changed(repo).reindex_array("/a", lambda _: 1 // 0),
        icechunk.IcechunkError,
        "unknown",
        r"ZeroDivisionError.*\[0, 0\]",
    ),
    (
        "chunk type, relative",
        lambda repo: changed(repo).chunk_type("a", (0, 0)),
        icechunk.InvalidInputError,
        "invalid-path",
        "begin with `/`",
    ),
    (
        "chunk type, a group",
        lambda repo: changed(repo).chunk_type("/", (0,)),
        icechunk.InvalidInputError,
        "not-an-array",
        "it is a group",
    ),
)
def test_sessions(repo, call, error, kind, words):
    before = tip(repo)
    check(call, repo, error, kind, words)
    assert tip(repo) == before


def test_a_session_is_over_with_its_commit(repo):
    session = after_commit(repo)
    for call in (lambda: session.commit("again"), lambda: session.rebase(icechunk.ConflictDetector())):
        with pytest.raises(icechunk.SessionStateError, match=r"repo\.writable_session"):
            call()
    with pytest.raises(icechunk.ReadOnlyError, match=r"repo\.writable_session"):
        put(session.store, "a/c/0/1", b"y")


def test_a_refused_commit_leaves_the_session_as_it_is(repo):
    session = changed(repo)
    for message in (5, None, "\ud800"):
        with pytest.raises((TypeError, ValueError)):
            session.commit(message)
    assert session.has_uncommitted_changes
    session.commit("now")


@cases(
    ("relative", lambda session: session.move("a", "/b"), icechunk.InvalidInputError, "invalid-path", "begin with `/`"),
    ("a number", lambda session: session.move(1, "/b"), TypeError, None, "node path is a str"),
    ("nothing", lambda session: session.move("/q", "/b"), icechunk.NodeNotFoundError, "node-not-found", "`/q`"),
    (
        "onto something",
        lambda session: session.move("/a", "/"),
        icechunk.IcechunkError,
        None,
        "/",
    ),
    (
        "writing",
        lambda session: put(session.store, "a/c/0/0", b"x"),
        icechunk.SessionStateError,
        "rearrange-session-only",
        "repo.writable_session",
    ),
)
def test_rearranging(repo, call, error, kind, words):
    check(call, repo.rearrange_session("main"), error, kind, words)


# --- stores ----------------------------------------------------------------------------------------------------------------

ONE = {"offset": 0, "length": 1, "validate_container": False}
SPEC = icechunk.VirtualChunkSpec


@cases(
    ("get, no key", lambda store: get(store, "foo"), icechunk.InvalidInputError, "invalid-key", "zarr.json"),
    ("get, out of it", lambda store: get(store, "../a/zarr.json"), icechunk.InvalidInputError, "invalid-key", r"\.\."),
    ("set, bytes", lambda store: run(store.set("a/c/0/0", b"x")), TypeError, None, "Buffer instance"),
    ("set, no key", lambda store: put(store, "foo", b"x"), icechunk.InvalidInputError, "invalid-key", "keys are"),
    ("set, zarr 2", lambda store: put(store, ".zarray", b"x"), icechunk.SessionStateError, "unimplemented", "format 3"),
    ("set, no JSON", lambda store: put(store, "b/zarr.json", b"x"), icechunk.InvalidInputError, "bad-metadata", "bad"),
    ("set, no type", lambda store: put(store, "b/zarr.json", b"{}"), icechunk.InvalidInputError, None, "node_type"),
    ("set, no array", lambda store: put(store, "q/c/0", b"x"), icechunk.NodeNotFoundError, "node-not-found", "`/q`"),
    ("set, in a group", lambda store: put(store, "c/0", b"x"), icechunk.InvalidInputError, "not-an-array", "a group"),
    (
        "set, outside",
        lambda store: put(store, "a/c/9/9", b"x"),
        icechunk.InvalidInputError,
        "invalid-chunk-index",
        r"its grid has \[4, 4\] chunks",
    ),
    (
        "set, another rank",
        lambda store: put(store, "a/c/0", b"x"),
        icechunk.InvalidInputError,
        "invalid-chunk-index",
        r"its grid has \[4, 4\] chunks",
    ),
    (
        "set, no bytes",
        lambda store: put(store, "a/c/0/0", b""),
        icechunk.InvalidInputError,
        "zero-length-chunk",
        "delete the chunk instead",
    ),
    (
        "set, another kind",
        lambda store: put(store, "a/zarr.json", group_json()),
        icechunk.AlreadyExistsError,
        "node-already-exists",
        "delete it before",
    ),
    (
        "set, ranks differ",
        lambda store: put(store, "b/zarr.json", array_json((4, 4), (1,))),
        icechunk.InvalidInputError,
        None,
        "dimensions",
    ),
    (
        "list, no node",
        lambda store: list(store.list_prefix("nope")),
        icechunk.InvalidInputError,
        "bad-key-prefix",
        "nope",
    ),
    ("size, nothing", lambda store: run(store.getsize("q/zarr.json")), icechunk.NodeNotFoundError, None, "q/zarr.json"),
    (
        "partial writes",
        lambda store: run(store.set_partial_values([])),
        icechunk.SessionStateError,
        "unimplemented",
        "write whole chunks",
    ),
    (
        "virtual, no container",
        lambda store: store.set_virtual_ref("a/c/0/0", "s3://b/k", offset=0, length=1),
        icechunk.InvalidInputError,
        "no-container-for-virtual-chunk",
        "set_virtual_chunk_container",
    ),
    (
        "virtual, no URL",
        lambda store: store.set_virtual_ref("a/c/0/0", "nothing", **ONE),
        icechunk.InvalidInputError,
        "invalid-virtual-ref",
        "such as s3://",
    ),
    ("virtual, a number", lambda store: store.set_virtual_ref("a/c/0/0", 5, **ONE), TypeError, None, "URL as str"),
    (
        "virtual, before the start",
        lambda store: store.set_virtual_ref("a/c/0/0", "s3://b/k", **{**ONE, "offset": -1}),
        OverflowError,
        None,
        "between 0 and",
    ),
    (
        "virtual, no bytes",
        lambda store: store.set_virtual_ref("a/c/0/0", "s3://b/k", **{**ONE, "length": 0}),
        icechunk.InvalidInputError,
        "zero-length-chunk",
        "at least one byte",
    ),
    (
        "virtual, no zone",
        lambda store: store.set_virtual_ref("a/c/0/0", "s3://b/k", checksum=NAIVE, **ONE),
        TypeError,
        None,
        "timezone.utc",
    ),
    (
        "virtual, a number as checksum",
        lambda store: store.set_virtual_ref("a/c/0/0", "s3://b/k", checksum=5, **ONE),
        TypeError,
        None,
        "etag",
    ),
    (
        "virtual, a document",
        lambda store: store.set_virtual_ref("a/zarr.json", "s3://b/k", **ONE),
        icechunk.SessionStateError,
        "not-allowed",
        "use .set",
    ),
    (
        "virtual, another rank",
        lambda store: store.set_virtual_refs("a", [SPEC([0], "s3://b/k", 0, 1)], validate_containers=False),
        icechunk.InvalidInputError,
        "invalid-chunk-index",
        "has 2 dimensions",
    ),
    (
        "virtual, columns of different lengths",
        lambda store: store.set_virtual_refs_arr(
            "a", (2, 2), ["s3://b/k"] * 3, np.zeros(4, np.uint64), np.ones(4, np.uint64), validate_containers=False
        ),
        icechunk.InvalidInputError,
        "invalid-virtual-ref",
        "give one of each per chunk",
    ),
    (
        "virtual, columns outside",
        lambda store: store.set_virtual_refs_arr(
            "a", (5, 5), ["s3://b/k"] * 25, np.zeros(25, np.uint64), np.ones(25, np.uint64), validate_containers=False
        ),
        icechunk.InvalidInputError,
        "invalid-chunk-index",
        r"its grid has \[4, 4\] chunks",
    ),
)
def test_stores(repo, call, error, kind, words):
    session = repo.writable_session("main")
    check(call, session.store, error, kind, words)
    assert not session.has_uncommitted_changes


@pytest.mark.parametrize(
    "write",
    [
        lambda store: put(store, "a/c/0/0", b"x"),
        lambda store: run(store.set_if_not_exists("a/c/0/0", buffer(b"x"))),
        lambda store: run(store.delete("a/c/0/0")),
        lambda store: run(store.delete_dir("a")),
        lambda store: run(store.clear()),
        lambda store: store.set_virtual_ref("a/c/0/0", "s3://b/k", **ONE),
        lambda store: store.set_virtual_refs("a", [], validate_containers=False),
        lambda store: store.with_read_only(False),
    ],
)
def test_writing_where_only_reading_is_allowed(repo, write):
    for store in (repo.readonly_session("main").store, after_commit(repo).store):
        with pytest.raises(icechunk.ReadOnlyError, match=r"repo\.writable_session"):
            write(store)
    run(assert_whole(repo.storage))

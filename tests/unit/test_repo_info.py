"""The repo object: bytes of the reference, changes against a model, the operations log, damaged files."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.damage import damages

from icechunk.errors import ErrorKind, FormatError, InternalError
from icechunk.flatbuf.builder import build
from icechunk.flatbuf.reader import Document
from icechunk.format.envelope import FileType, open_envelope, seal
from icechunk.format.ids import INITIAL_SNAPSHOT_ID, format_id, parse_id
from icechunk.format.repo_info import (
    BranchCreated,
    BranchDeleted,
    BranchReset,
    CommitAmended,
    ConfigChanged,
    ExpirationRan,
    FeatureFlagChanged,
    GCRan,
    MetadataChanged,
    NewCommit,
    NewDetachedSnapshot,
    RepoInfo,
    RepoInitialized,
    RepoMigrated,
    RepoStatusChanged,
    SnapshotRecord,
    Status,
    TagCreated,
    TagDeleted,
    Update,
    UpdateKind,
)
from icechunk.format.schemas import FILE_IDENTIFIER, REPO, UPDATE

REPOS = Path(__file__).parent.parent / "golden" / "repos"
START = 1_700_000_000_000_000

FRESH = bytes.fromhex(
    "1c0000004963686b14002400070008000c001000140018001c00200014000000000000023001000008010000000100005c000000480000"
    "003800000004000000010000001000000000000a001400070008000c000a00000000000001100000009c1700e7e0600600040004000400"
    "0000000000000800100000000400080000006d1700e7e060060000000000010000001400000000000e002800040010001c00140018000e"
    "0000000b1cc8d6787580f0e33a6534ffffffff140000002c0000000c1700e7e060060000000000160000005265706f7369746f72792069"
    "6e697469616c697a65640000010000000c00000008000c00040008000800000020000000040000001200000069735f726f6f7400010901"
    "0101016802240100000a0000005f5f6963656368756e6b000000000000010000000c000000000006000800040006000000040000000400"
    "00006d61696e0000000000000000"
)

FRESH_FILE = bytes.fromhex(
    "494345f09fa78a4348554e4b69632d322e332e302020202020202020202020202020202002060128b52ffd6058001d0700d24c282d706b"
    "33077c2e1262ae5f5555acff3fa2c9d66a416e4d0d09a9cbfefae190242689a1f4e8bd35eced7b2db03205ff9747b13c9dd0e795cb26bb"
    "b0eb59d66e02c99c732ec0d5681ac6cabc0f5c1d4960176f82f234eff22a0b8ca679198d027b384174846ddb36058ca1e3036353b1a141"
    "095c42953a0f4a2c873a50e713c1e1b120c38d4c23a5ce17de7088dd1db44b809c56a906a7d22814e0e454c92e8753011a0010c011f996"
    "40007e5fd5ac5dace78f853e16189918ae6c8c21d8b334eec3aedc316b863010c25069aa6a0824e4eeec349c69acc09e935a589b386c41"
    "1e"
)


def wrap(payload: bytes) -> bytes:
    return seal(payload, FileType.REPO_INFO, spec=2, level=1)


def decode(data: bytes) -> RepoInfo:
    return RepoInfo.decode(data, "repo")


def again(info: RepoInfo) -> RepoInfo:
    """As the next process reads it."""
    return decode(info.encode(1))


def payload_of(info: RepoInfo) -> bytes:
    return bytes(open_envelope(info.encode(1), FileType.REPO_INFO, "repo")[1])


def record(number: int, parent: int | None = None, **values: Any) -> SnapshotRecord:
    fields: dict[str, Any] = {"message": f"commit {number}", "metadata": {}} | values
    return SnapshotRecord(
        snapshot_id(number), None if parent is None else snapshot_id(parent), START + number, **fields
    )


def snapshot_id(number: int) -> bytes:
    """Spread over all ids, so that the order of numbers is not that of ids."""
    return ((number + 1) * 0x9E3779B97F4A7C15F39CC061 % 2**96).to_bytes(12, "big")


def initial() -> RepoInfo:
    return RepoInfo.initial(record(0), START)


def records(info: RepoInfo) -> dict[bytes, SnapshotRecord]:
    found = {}
    for each in info.snapshot_ids():
        known = info.snapshot(each)
        assert known is not None
        found[each] = known
    return found


def everything(info: RepoInfo) -> dict[str, Any]:
    return {
        "records": records(info),
        "branches": dict(info.branches),
        "tags": dict(info.tags),
        "deleted_tags": info.deleted_tags,
        "status": info.status,
        "metadata": info.metadata,
        "config": info.config,
        "flags": (info.enabled_flags, info.disabled_flags),
        "updates": list(info.updates),
        "before_updates": info.before_updates,
        "extra": info.extra,
    }


# ---- files of the reference


@pytest.mark.parametrize("data", [FRESH_FILE, wrap(FRESH)], ids=["file", "payload"])
def test_a_fresh_repository_of_2x(data: bytes) -> None:
    info = decode(data)
    assert info.branches == {"main": INITIAL_SNAPSHOT_ID}
    assert info.tags == {}
    assert info.deleted_tags == frozenset()
    assert info.snapshot_ids() == [INITIAL_SNAPSHOT_ID]
    found = info.snapshot(INITIAL_SNAPSHOT_ID)
    assert found is not None
    assert (found.parent_id, found.message) == (None, "Repository initialized")
    assert found.metadata == {"__icechunk": {"is_root": True}}
    assert (info.status.availability, info.status.reason) == (0, None)
    assert [update.kind for update in info.updates] == [RepoInitialized()]
    assert info.updates[0].backup is None
    assert info.config is None
    assert info.metadata == {}
    assert info.enabled_flags == info.disabled_flags == ()
    assert info.before_updates is None


FIXTURES = sorted([*REPOS.glob("*/repo"), *REPOS.glob("*/overwritten/repo.*")])


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.name)
def test_repo_objects_of_all_fixtures_survive_being_written_again(path: Path) -> None:
    data = path.read_bytes()
    info = decode(data)
    expected = everything(info)
    assert everything(again(info)) == expected
    assert everything(again(again(info))) == expected
    assert everything(info) == expected


def test_pruned_logs_of_the_fixtures() -> None:
    info = decode((REPOS / "expire-repo-v2-by-2.0.6" / "repo").read_bytes())
    assert len(info.updates) == 24
    main, feature = info.snapshot(info.branches["main"]), info.snapshot(info.branches["feature"])
    assert main is not None
    assert feature is not None
    assert len(main.pruned) == 9
    assert format_id(main.pruned[0]) == "JBEK67R42G7WXQ2GF2Q0"
    assert format_id(main.pruned[-1]) == "1S9W3F15WANJN3JD3HBG"
    assert main.pruned[:4] == feature.pruned[:4]
    assert main.parent_id == INITIAL_SNAPSHOT_ID


def test_the_log_of_a_migrated_repository() -> None:
    info = decode((REPOS / "test-repo-v2-migrated" / "repo").read_bytes())
    kinds = [type(update.kind) for update in info.updates]
    assert kinds[:8] == [
        RepoMigrated,
        TagCreated,
        BranchCreated,
        NewCommit,
        TagDeleted,
        TagCreated,
        TagCreated,
        NewCommit,
    ]
    assert kinds[-1] is RepoInitialized
    assert info.updates[0].kind == RepoMigrated(1, 2)
    assert info.updates[1].kind == TagCreated("it also works!")
    assert {update.backup for update in info.updates} == {None}
    assert info.deleted_tags == {"deleted"}
    line = [each.message for each in info.ancestry(parse_id("XDZ162T1TYBEJMK99NPG"))]
    assert line[0] == "some more structure"
    assert line[-1] == "Repository initialized"
    assert len(line) == 6


# ---- against a model


class World:
    """A repo object, and what it should hold in plain Python."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.info = initial()
        self.records = {snapshot_id(0): record(0)}
        self.branches = {"main": snapshot_id(0)}
        self.tags: dict[str, bytes] = {}
        self.deleted_tags: set[str] = set()
        self.updates = [Update(RepoInitialized(), START)]
        self.before: str | None = None

    def step(self, number: int, verb: str, name: str, pick: int, metadata: dict[str, Any]) -> None:
        known = list(self.records)
        target = known[pick % len(known)]
        at = START + 1000 * number
        info, kind = self.info, TagDeleted(name, target)  # type: RepoInfo, UpdateKind
        if verb == "commit":
            parent = self.branches.get(name, target)
            message = f"é{number}" * (pick % 3)
            new = SnapshotRecord(snapshot_id(number), parent, at, message, metadata, (target,) * (pick % 2))
            info, kind = info.with_snapshot(new).with_branch(name, new.id), NewCommit(name, new.id)
            self.records[new.id] = new
            self.branches[name] = new.id
        elif verb == "tag":
            info, kind = info.with_tag(name, target), TagCreated(name)
            self.tags[name] = target
        elif verb == "untag":
            info = info.without_tag(name)
            self.tags.pop(name, None)
            self.deleted_tags.add(name)
        else:
            info, kind = info.without_branch(name), BranchDeleted(name, target)
            self.branches.pop(name, None)
        backup = f"copy{number}" if pick % 5 else None
        self.info = info.with_update(kind, at, backup, self.limit)
        self.updates = [Update(kind, at), replace(self.updates[0], backup=backup), *self.updates[1:]]
        while len(self.updates) > self.limit and self.updates[-1].backup is not None:
            self.before = self.updates.pop().backup

    def check(self) -> None:
        info = self.info
        assert records(info) == self.records
        assert info.parents() == {key: each.parent_id for key, each in self.records.items()}
        assert dict(info.branches) == self.branches
        assert dict(info.tags) == self.tags
        assert info.deleted_tags == self.deleted_tags
        assert list(info.updates) == self.updates
        assert info.before_updates == self.before


names = st.sampled_from(["main", "a", "a-b", "é", "z/z", ""])
properties = st.dictionaries(
    st.sampled_from("abé"), st.integers(-(2**63), 2**63) | st.text(max_size=3) | st.none(), max_size=2
)
verbs = st.sampled_from(["commit", "commit", "commit", "tag", "untag", "delete"])
steps = st.lists(
    st.tuples(verbs, names, st.integers(0, 50), properties, st.sampled_from(["go on", "write", "read again"])),
    max_size=25,
)


@given(steps, st.integers(1, 8))
def test_changes_agree_with_a_model(steps: list[tuple[Any, ...]], limit: int) -> None:
    world = World(limit)
    for number, (verb, name, pick, metadata, then) in enumerate(steps, 1):
        world.step(number, verb, name, pick, metadata)
        if then == "write":
            world.info.encode(1)
        elif then == "read again":
            world.info = again(world.info)
        world.check()
    world.info = again(world.info)
    world.check()


def test_a_value_never_changes() -> None:
    world = World(5)
    stands = []
    for number in range(1, 40):
        world.step(number, "commit", "main", number, {"n": number})
        stands.append((world.info, everything(world.info)))
        world.info.encode(1)
    for info, expected in stands:
        assert everything(info) == expected
        assert everything(again(info)) == expected


def test_a_thousand_commits_leave_a_file_of_their_size() -> None:
    info = initial()
    for number in range(1, 1001):
        info = info.with_snapshot(record(number, number - 1)).with_branch("main", snapshot_id(number))
        info = info.with_update(NewCommit("main", snapshot_id(number)), START + number, f"copy{number:020}", 50)
        if number % 3 == 0:
            info = again(info)
    size = len(payload_of(info))
    whole = initial().with_snapshots_replaced(records(info).values()).with_branch("main", snapshot_id(1000))
    for update in reversed(info.updates):
        if update.at > START:
            whole = whole.with_update(update.kind, update.at, None, 1000)
    assert size < 1.5 * len(payload_of(whole))
    assert [each.message for each in info.ancestry(snapshot_id(1000))] == [f"commit {n}" for n in range(1000, -1, -1)]
    assert {each.id: each for each in info.ancestry(snapshot_id(1000))} == records(info)


# ---- the operations log


def test_every_kind_of_update_survives() -> None:
    one, two = snapshot_id(1), snapshot_id(2)
    kinds: list[UpdateKind] = [
        RepoMigrated(1, 2),
        ConfigChanged(),
        MetadataChanged(),
        TagCreated("t"),
        TagDeleted("t", one),
        BranchCreated("b"),
        BranchDeleted("é", one),
        BranchReset("", two),
        NewCommit("b", one),
        CommitAmended("b", one, two),
        NewDetachedSnapshot(one),
        GCRan(),
        ExpirationRan(),
        FeatureFlagChanged(3, True),
        FeatureFlagChanged(4, False),
        FeatureFlagChanged(65535, None),
        RepoStatusChanged(Status(1, START + 5, "because")),
        RepoStatusChanged(Status(0, START + 6)),
    ]
    info = initial()
    for number, kind in enumerate(kinds, 1):
        info = info.with_update(kind, START + number, f"copy{number}", 100)
    assert [update.kind for update in again(info).updates] == [*reversed(kinds), RepoInitialized()]
    assert [update.at for update in again(info).updates] == [START + number for number in range(len(kinds), -1, -1)]


def test_the_log_overflows_into_the_copies() -> None:
    """As the reference does it with a limit of three."""
    info = initial()
    for number in range(4):
        info = info.with_update(BranchCreated(f"b{number}"), START + 1 + number, f"X{number - 1}", 3)
        if number == 2:
            assert [(update.kind, update.backup) for update in info.updates] == [
                (BranchCreated("b2"), None),
                (BranchCreated("b1"), "X1"),
                (BranchCreated("b0"), "X0"),
            ]
            assert info.before_updates == "X-1"
    info = again(info)
    assert [update.backup for update in info.updates] == [None, "X2", "X1"]
    assert info.before_updates == "X0"


def test_a_smaller_limit_drops_several_entries_and_goes_on_from_the_newest_of_them() -> None:
    info = initial()
    for number in range(1, 8):
        info = info.with_update(GCRan(), START + number, f"copy{number - 1}", 100)
    info = again(info).with_update(ExpirationRan(), START + 8, "copy7", 3)
    assert [update.backup for update in info.updates] == [None, "copy7", "copy6"]
    assert info.before_updates == "copy5"


def test_entries_without_a_copy_stay() -> None:
    info = initial()
    for number in range(1, 8):
        info = info.with_update(GCRan(), START + number, None, 3)
    assert len(info.updates) == 8
    assert info.before_updates is None


def test_time_only_goes_forward() -> None:
    info = initial().with_update(GCRan(), START + 5, None, 10)
    for at in (START + 5, START):
        with pytest.raises(InternalError, match="not later"):
            again(info).with_update(GCRan(), at, None, 10)


def test_the_log_is_a_sequence() -> None:
    info = again(initial().with_update(GCRan(), START + 1, "copy", 10)).with_update(ExpirationRan(), START + 2, "x", 10)
    assert len(info.updates) == 3
    assert info.updates[-1].kind == RepoInitialized()
    assert info.updates[1:] == [Update(GCRan(), START + 1, "x"), Update(RepoInitialized(), START, "copy")]
    with pytest.raises(IndexError):
        info.updates[3]


# ---- snapshots


@pytest.mark.parametrize("read", [False, True], ids=["fresh", "read"])
def test_look_ups(read: bool) -> None:
    info = initial()
    for number in range(1, 100):
        info = info.with_snapshot(
            record(number, number // 2, metadata={"n": number}, pruned=(b"p" * 12,) * (number % 3))
        )
    info = again(info) if read else info
    assert len(info) == 100
    assert info.snapshot_ids() == sorted(snapshot_id(number) for number in range(100))
    for number in range(100):
        found = info.snapshot(snapshot_id(number))
        assert found is not None
        assert (found.message, found.metadata) == (f"commit {number}", {"n": number} if number else {})
        assert len(found.pruned) == number % 3
    assert snapshot_id(5) in info
    assert b"unknown id.." not in info
    assert info.snapshot(b"unknown id..") is None
    assert [each.flushed_at - START for each in info.ancestry(snapshot_id(99))] == [99, 49, 24, 12, 6, 3, 1, 0]
    assert list(info.ancestry(b"unknown id..")) == []


def test_ids_at_both_ends() -> None:
    """What moves most: a record put before all others. The parent in the first row is 0, which is the default too."""
    info = initial()
    for first in (b"\xff" * 12, b"\0" * 12, b"\0" * 11 + b"\1", b"\xff" * 11 + b"\0"):
        new = SnapshotRecord(first, info.branches["main"], START, first.hex(), {})
        info = again(info.with_snapshot(new).with_branch("main", first).with_tag(first.hex(), first))
    line = list(info.ancestry(info.branches["main"]))
    assert [each.id[-1] for each in line[:4]] == [0, 1, 0, 255]
    assert all(info.tags[each.message] == each.id for each in line[:4])


def test_many_refs() -> None:
    info = initial().with_snapshot(record(1, 0))
    for number in range(40):
        info = info.with_tag(f"tag-{number}-é" * (number % 3), snapshot_id(number % 2)).with_branch(
            str(number), snapshot_id(1)
        )
    found = again(info)
    assert dict(found.tags) == dict(info.tags)
    assert dict(found.branches) == dict(info.branches)


def test_records_are_replaced() -> None:
    info = initial()
    for number in range(1, 10):
        info = info.with_snapshot(record(number, number - 1)).with_branch("main", snapshot_id(number))
    info = again(info)
    changed = info.with_snapshot(record(5, 0, message="other", pruned=(snapshot_id(1),)))
    assert again(changed).snapshot(snapshot_id(5)) == record(5, 0, message="other", pruned=(snapshot_id(1),))
    assert info.snapshot(snapshot_id(5)) == record(5, 4)

    kept = [record(0), record(9, 0, pruned=tuple(map(snapshot_id, range(1, 9))))]
    small = again(info.with_snapshots_replaced(kept))
    assert records(small) == {each.id: each for each in kept}
    assert list(small.ancestry(small.branches["main"])) == [kept[1], kept[0]]


def test_nothing_may_lead_to_a_missing_snapshot() -> None:
    info = initial().with_snapshot(record(1, 0)).with_branch("main", snapshot_id(1))
    with pytest.raises(InternalError, match="not there"):
        info.with_snapshot(record(3, 2))
    with pytest.raises(InternalError, match="lose its parent"):
        info.with_snapshots_replaced([record(1, 0)])
    with pytest.raises(InternalError, match="not there"):
        info.with_snapshots_replaced([record(0)]).encode()


# ---- what is handed on


def test_config_and_metadata() -> None:
    config = {"inline_chunk_threshold_bytes": 12, "manifest": {"splitting": None}, "compression": {"level": 3}}
    info = again(initial().with_config(config).with_metadata({"b": [1], "a": "x"}))
    assert info.config == config
    assert list(info.metadata.items()) == [("a", "x"), ("b", [1])]
    info = again(info.with_config({}).with_metadata({}))
    assert info.config == {}
    assert info.metadata == {}


def test_status() -> None:
    status = Status(1, START + 7, "maintenance")
    assert again(initial().with_status(status)).status == status


def test_unknown_switches_and_reserved_bytes_stay() -> None:
    root = fresh_root() | {"enabled_feature_flags": [3, 999], "disabled_feature_flags": [], "extra": b"reserved"}
    info = decode(wrap(build(REPO, root, FILE_IDENTIFIER)))
    assert info.enabled_flags == (3, 999)
    info = again(info.with_branch("b", b"i" * 12))
    assert (info.enabled_flags, info.disabled_flags, info.extra) == ((3, 999), (), b"reserved")
    info = again(info.with_flags([999, 4], [5]))
    assert (info.enabled_flags, info.disabled_flags) == ((4, 999), (5,))


def test_switches_that_were_never_set_are_absent() -> None:
    root = Document(payload_of(initial()), "repo").root(REPO)
    assert root["enabled_feature_flags"] is None
    assert root["config"] is None
    assert root["metadata"] is not None
    assert root["spec_version"] == 2


def fresh_root() -> dict[str, Any]:
    """The fields of a small repo object, for building it by hand."""
    return {
        "spec_version": 2,
        "tags": [],
        "branches": [{"name": "main", "snapshot_index": 0}],
        "deleted_tags": [],
        "snapshots": [{"id": b"i" * 12, "parent_offset": -1, "message": "m"}],
        "status": {},
        "latest_updates": [{"update_type": (1, {}), "updated_at": 5}],
    }


# ---- files that are odd or damaged


def test_what_may_be_absent() -> None:
    info = decode(wrap(build(REPO, fresh_root(), FILE_IDENTIFIER)))
    assert info.snapshot(b"i" * 12) == SnapshotRecord(b"i" * 12, None, 0, "m", {})
    assert info.status == Status(0, 0)
    assert info.metadata == {}
    assert everything(again(info)) == everything(info)


def test_snapshots_in_any_order() -> None:
    rows = [
        {"id": b"c" * 12, "parent_offset": 2, "message": "c"},
        {"id": b"a" * 12, "parent_offset": 0, "message": "a"},
        {"id": b"b" * 12, "parent_offset": -1, "message": "b"},
    ]
    info = decode(wrap(build(REPO, fresh_root() | {"snapshots": rows}, FILE_IDENTIFIER)))
    assert info.branches["main"] == b"c" * 12
    for each in (info, again(info)):
        assert [found.message for found in each.ancestry(b"a" * 12)] == ["a", "c", "b"]


def test_another_version_of_the_format_is_refused() -> None:
    for version in (0, 1, 3):
        with pytest.raises(FormatError, match=f"format version {version}") as caught:
            decode(wrap(build(REPO, fresh_root() | {"spec_version": version}, FILE_IDENTIFIER)))
        assert caught.value.kind == ErrorKind.UNSUPPORTED_SPEC_VERSION


@pytest.mark.parametrize(
    "values, message",
    [
        ({"snapshots": [{"id": b"i" * 12, "parent_offset": 1, "message": "m"}]}, r"repo: SnapshotInfo\.parent_offset"),
        ({"snapshots": [{"id": b"i" * 12, "parent_offset": -2, "message": "m"}]}, r"repo: SnapshotInfo\.parent_offset"),
        ({"branches": [{"name": "main", "snapshot_index": 1}]}, r"repo: Ref\.snapshot_index"),
        ({"snapshots": [{"id": b"i" * 12, "message": "m", "flushed_at": 2**62}]}, r"repo: SnapshotInfo\.flushed_at"),
        ({"status": {"set_at": 2**62}}, r"repo: RepoStatus\.set_at"),
    ],
)
def test_numbers_that_lead_nowhere(values: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        decode(wrap(build(REPO, fresh_root() | values, FILE_IDENTIFIER)))


def test_snapshots_that_are_parents_of_each_other() -> None:
    rows = [{"id": bytes([number]) * 12, "parent_offset": (number + 1) % 3, "message": "m"} for number in range(3)]
    info = decode(wrap(build(REPO, fresh_root() | {"snapshots": rows}, FILE_IDENTIFIER)))
    with pytest.raises(FormatError, match="parents of each other"):
        list(info.ancestry(b"\0" * 12))


def test_updates_of_a_later_version_are_carried_over_but_not_read() -> None:
    info = initial()
    for number in range(1, 5):
        info = info.with_update(GCRan(), START + number, f"copy{number}", 100)
    info = again(again(info))
    payload = bytearray(payload_of(again(info)))
    updates = decode(wrap(bytes(payload))).updates
    code = int(updates.positions[-1])
    code += updates.doc.layout(UPDATE, code)[0]
    payload[code] = 77
    info = decode(wrap(bytes(payload)))
    info = again(info.with_update(ExpirationRan(), START + 9, "copy", 100))
    assert len(info.updates) == 6
    assert info.updates[0].kind == ExpirationRan()
    with pytest.raises(FormatError, match="unknown type code 77"):
        list(info.updates)


def busy() -> RepoInfo:
    world = World(6)
    for number in range(1, 9):
        world.step(number, "commit", "main", number, {"a": number, "b": "x"} if number % 2 else {})
    for number, verb in enumerate(("tag", "tag", "untag"), 9):
        world.step(number, verb, f"t{number % 2}", number, {})
    return world.info.with_config({"a": {"b": [1]}}).with_metadata({"k": 1}).with_flags([3], [4])


@pytest.mark.parametrize("which", ["2.x", "ours"])
def test_damaged_repo_objects_raise_nothing_but_format_errors(which: str) -> None:
    payload = FRESH if which == "2.x" else payload_of(again(busy()))
    for damaged in damages(payload, 17, 700):
        try:
            look_at_everything(wrap(damaged))
        except FormatError:
            pass


def look_at_everything(data: bytes) -> None:
    parts = [
        everything,
        lambda info: [list(info.ancestry(tip)) for tip in info.branches.values()],
        lambda info: info.parents(),
        lambda info: list(info.updates),
        lambda info: everything(again(info)),
        lambda info: everything(again(info.with_snapshot(SnapshotRecord(b"new snapshot", None, START, "m", {"a": 1})))),
        lambda info: again(info.with_update(GCRan(), 253_402_300_799_999_999, "copy", 3)),
    ]
    info = decode(data)
    for part in parts:
        try:
            part(copy.copy(info))
        except FormatError:
            pass

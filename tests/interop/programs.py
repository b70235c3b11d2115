"""Repositories as programs: one per kind of content that a repository can have.

Each is run by one implementation and read by the other. Add a program here and every exchange test runs it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.interop.language import step

Steps = list[list[Any]]


@dataclass(frozen=True)
class Content:
    """A program that fills a new repository.

    `specs` are the formats it makes sense in. `api` is the version of the API it calls: 2 for what 1.x lacks.
    In the formats of `extension` only we can write it, but everybody can read it.
    `config` and `authorize` go to the creation and to every opening. `same_zarr` is for what two versions of zarr may
    read differently.
    """

    name: str
    steps: Steps
    specs: tuple[int, ...] = (1, 2)
    api: int = 1
    config: dict[str, Any] = field(default_factory=dict)
    authorize: tuple[str, ...] = ()
    same_zarr: bool = False
    extension: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.name


def commit(message: str, **more: Any) -> Steps:
    return [step("commit", message=message, **more)]


def session(branch: str = "main") -> Steps:
    return [step("session", branch=branch)]


def small_array(path: str, dtype: Any = "i4", session: str = "s", **more: Any) -> Steps:
    """A 4 x 4 array in four chunks, filled."""
    options: dict[str, Any] = {"shape": [4, 4], "chunks": [2, 2], "dtype": dtype, **more}
    return [
        step("array", path=path, session=session, **options),
        step("write", path=path, session=session, values={"range": 1}),
    ]


DATA = "file://{data}/"
TINY = {"inline_chunk_threshold_bytes": 0}  # every chunk an object of its own

GROUPS = Content(
    "groups",
    [
        *session(),
        step("group", path="", attributes={"title": "root", "numbers": [1, 2.5, -3e-7, None, True]}),
        step("group", path="a/b/c/d", attributes={"nested": {"ключ": "値", "list": [[], {}]}}),
        step("group", path="a/b-1"),
        step("group", path="a/b.1"),
        step("group", path="Ünïcode ☃ name"),
        *commit("groups"),
        *session(),
        step("attributes", path="a/b/c/d", attributes={"more": "text"}),
        step("group", path="a/b/c/e"),
        *commit("more groups"),
    ],
)

SCALARS = Content(
    "zero-dimensional",
    [
        *session(),
        step("group", path=""),
        step("array", path="i", shape=[], chunks=[], dtype="i8"),
        step("write", path="i", values={"fill": -7}),
        step("array", path="f", shape=[], chunks=[], dtype="f4", fill=1.5),
        step("array", path="b", shape=[], chunks=[], dtype="bool", attributes={"units": "1"}),
        step("write", path="b", values={"fill": True}),
        *commit("scalars"),
        *session(),
        step("write", path="f", values={"fill": 2.5}),
        *commit("one more value"),
    ],
)

EMPTY = Content(
    "zero-size",
    [
        *session(),
        step("group", path=""),
        step("array", path="none", shape=[0], chunks=[1], dtype="f8"),
        step("array", path="flat", shape=[0, 5], chunks=[1, 5], dtype="i2"),
        step("array", path="unwritten", shape=[6], chunks=[2], dtype="i2", fill=9),
        *commit("nothing in them"),
        *session(),
        step("resize", path="none", shape=[3]),
        step("write", path="none", values={"range": 1}),
        *commit("grown"),
    ],
)

NUMBERS = ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
DTYPES = Content(
    "data types",
    [
        *session(),
        step("group", path="types"),
        *[one for dtype in NUMBERS for one in small_array("types/" + dtype, dtype)],
        *small_array("types/big", ">f8"),
        step("array", path="types/nan", shape=[3], chunks=[2], dtype="f8", fill="NaN"),
        step("array", path="types/inf", shape=[3], chunks=[2], dtype="f8", fill="-Infinity"),
        *small_array("types/time", "M8[ns]"),
        *commit("types"),
    ],
)

STRINGS = Content(
    "strings",
    [
        *session(),
        step("group", path=""),
        step("array", path="text", shape=[3], chunks=[2], dtype="str"),
        step("write", path="text", values={"list": ["short", "", "длинная строка ☃ " * 40]}),
        step("array", path="fixed", shape=[2], chunks=[1], dtype="U8"),
        step("write", path="fixed", values={"list": ["abc", "ünïcødé"]}),
        *commit("strings"),
    ],
)

RECORDS = Content(
    "structures",
    [
        *session(),
        step("array", path="records", shape=[3], chunks=[2], dtype=[["x", "<i4"], ["y", "<f8"]]),
        step("write", path="records", values={"list": [[1, 1.5], [2, 2.5], [3, -1.0]]}),
        *commit("records"),
    ],
    same_zarr=True,  # its name for this type changed
)

DIMENSIONS = Content(
    "many dimensions",
    [
        *session(),
        step("group", path=""),
        step("array", path="nine", shape=[2] * 9, chunks=[1] * 8 + [2], dtype="u1", compress=False),
        step("write", path="nine", values={"range": 0}),
        step("array", path="named", shape=[3, 4], chunks=[3, 1], dtype="f4", dimensions=["time", None]),
        step("write", path="named", values={"range": 0}, where=[[0, 2], [1, 3]]),
        *commit("dimensions"),
    ],
)

SHARDS = Content(
    "sharded",
    [
        *session(),
        step("group", path=""),
        step("array", path="s", shape=[40, 40], chunks=[5, 5], shards=[20, 20], dtype="f8"),
        step("write", path="s", values={"range": 0}),
        *commit("shards"),
        *session(),
        step("write", path="s", values={"fill": -1}, where=[[3, 7], [18, 22]]),
        *commit("part of four shards"),
    ],
)

SIZES = Content(
    "inline and native",
    [
        *session(),
        step("group", path=""),
        step("array", path="below", shape=[4], chunks=[1], dtype="u1", compress=False),
        step("write", path="below", values={"range": 1}),
        step("array", path="at", shape=[24], chunks=[12], dtype="u1", compress=False),
        step("write", path="at", values={"range": 1}),
        step("array", path="above", shape=[26], chunks=[13], dtype="u1", compress=False),
        step("write", path="above", values={"range": 1}),
        step("array", path="large", shape=[400_000], chunks=[300_000], dtype="i4"),
        step("write", path="large", values={"range": 5}),
        *commit("sizes"),
        *session(),
        step("write", path="above", values={"fill": 0}, where=[[0, 13]]),
        step("write", path="below", values={"fill": 99}, where=[2]),
        *commit("changed"),
    ],
    config={"inline_chunk_threshold_bytes": 12},
)

VIRTUAL = Content(
    "virtual",
    [
        *session(),
        step("group", path=""),
        step("array", path="g/v", shape=[6, 16], chunks=[1, 16], dtype="u1", compress=False),
        step(
            "virtual",
            path="g/v",
            refs=[
                {"at": [0, 0], "url": DATA + "bytes.bin", "offset": 0, "length": 16},
                {"at": [1, 0], "url": DATA + "bytes.bin", "offset": 100, "length": 16},
                {"at": [3, 0], "url": DATA + "with%20space.bin", "offset": 3, "length": 16},
                {"at": [4, 0], "url": DATA + "bytes.bin", "offset": 32, "length": 16, "modified": 4_000_000_000},
                {"at": [5, 0], "url": DATA + "sub/deep.bin", "offset": 1, "length": 16, "modified": 1_000},
            ],
        ),
        *commit("virtual"),
        *session(),
        step("write", path="g/v", values={"fill": 200}, where=[2]),  # one chunk of another kind in the same array
        step("write", path="g/v", values={"fill": 201}, where=[1]),  # and one that was virtual
        step("delete_key", key="g/v/c/3/0"),
        *commit("mixed"),
    ],
    config={"containers": [DATA], "inline_chunk_threshold_bytes": 4},
    authorize=(DATA,),
)

UNREACHABLE = Content(
    "virtual elsewhere",
    [
        *session(),
        step("group", path=""),
        step("array", path="v", shape=[4], chunks=[1], dtype="u1", compress=False),
        step(
            "virtual",
            path="v",
            validate=False,
            refs=[
                {"at": [0], "url": "s3://bucket/some/key.nc", "offset": 12, "length": 1, "etag": '"abc"'},
                {"at": [1], "url": "gs://bucket/some/key.nc", "offset": 2**40, "length": 1, "modified": 1_700_000_000},
                {"at": [2], "url": "https://example.org/x.nc", "offset": 0, "length": 1},
                {"at": [3], "url": "s3://bucket/some/%D0%BA%D0%BB%D1%8E%D1%87.nc", "offset": 0, "length": 1},
            ],
        ),
        *commit("nobody can fetch these"),
    ],
)

MANY_VIRTUAL = Content(
    "many virtual",  # enough for the 2.x reference to compress the locations
    [
        *session(),
        step("group", path=""),
        step("array", path="v", shape=[3000], chunks=[1], dtype="u1", compress=False),
        step(
            "virtual",
            path="v",
            validate=False,
            refs=[
                {"at": [i], "url": f"s3://bucket/a/long/prefix/file_{i:05}.nc", "offset": i, "length": 1}
                for i in range(2500)
            ],
        ),
        *commit("many"),
        *session(),
        step(
            "virtual",
            path="v",
            validate=False,
            refs=[{"at": [2600], "url": "s3://bucket/other.nc", "offset": 0, "length": 1}],
        ),
        step("delete_key", key="v/c/7"),
        *commit("one more, one less"),
    ],
)

SPLIT = Content(
    "split manifests",
    [
        *session(),
        step("group", path="g"),
        step("array", path="g/split_a", shape=[10, 10], chunks=[1, 1], dtype="u1", dimensions=["t", "x"]),
        step("write", path="g/split_a", values={"range": 0}),
        step("array", path="g/whole", shape=[10], chunks=[1], dtype="u1"),
        step("write", path="g/whole", values={"range": 0}),
        step("array", path="g/split_none", shape=[10, 10], chunks=[1, 1], dtype="u1"),
        *commit("written"),
        *session(),
        step("write", path="g/split_a", values={"fill": 7}, where=[[3, 4], [0, 10]]),  # inside one split
        step("write", path="g/split_none", values={"fill": 7}, where=[[0, 9], [9, 10]]),
        *commit("a row"),
        *session(),
        step("resize", path="g/split_a", shape=[13, 10]),
        step("write", path="g/split_a", values={"fill": 8}, where=[[10, 13], [0, 10]]),
        *commit("appended"),
        *session(),
        step("resize", path="g/split_a", shape=[4, 10]),
        step("delete_key", key="g/split_none/c/0/9"),
        *commit("cut"),
    ],
    config={
        "splitting": [
            [{"name": "split_.*"}, [[{"axis": 0}, 3], [{"dimension": "x"}, 4], [{"any": True}, 5]]],
            [{"and": [{"path": "/g/"}, {"name": "other"}]}, [[{"any": True}, 2]]],
        ]
    },
)

RESPLIT = Content(
    "rewritten manifests",
    [
        *session(),
        step("group", path=""),
        step("array", path="a", shape=[12], chunks=[1], dtype="u1"),
        step("write", path="a", values={"range": 1}),
        *commit("one manifest"),
        step("save_config", config={"splitting": [[{"any": True}, [[{"any": True}, 5]]]]}),
        step("rewrite_manifests", message="split now"),
        *session(),
        step("write", path="a", values={"fill": 77}, where=[6]),
        *commit("middle"),
    ],
)

NODES = Content(
    "replaced nodes",
    [
        *session(),
        step("group", path="g"),
        *small_array("g/a"),
        *small_array("g/b"),
        *small_array("g/c/deep"),
        *commit("nodes", label="before"),
        *session(),
        step("delete", path="g/a"),
        *small_array("g/a", "f8", chunks=[4, 1]),  # another array under the same name
        step("delete", path="g/c"),
        step("group", path="g/c", attributes={"new": True}),
        step("delete_key", key="g/b/c/0/1"),
        step("write", path="g/b", values={"fill": 5}, where=[[2, 4], [2, 4]]),
        *commit("replaced"),
        *session(),
        step("delete", path="g/b"),
        step("group", path="g/b"),  # an array becomes a group
        step("resize", path="g/a", shape=[2, 4]),
        *commit("cut"),
        *session(),
        step("resize", path="g/a", shape=[6, 6]),
        *commit("grown"),
    ],
    config=TINY,
)

REFS = Content(
    "branches and tags",
    [
        *session(),
        step("group", path=""),
        *small_array("a"),
        *commit("first", label="first"),
        step("branch", name="dev", snapshot="@first"),
        step("tag", name="v1", snapshot="@first"),
        step("tag", name="it also works!", snapshot="@first"),
        step("tag", name="gone", snapshot="@first"),
        step("delete_tag", name="gone"),
        *session("dev"),
        step("write", path="a", values={"fill": 3}, where=[0, 0]),
        *commit("on dev", label="dev"),
        step("branch", name="short-lived", snapshot="@dev"),
        step("delete_branch", name="short-lived"),
        *session(),
        step("attributes", path="a", attributes={"on": "main"}),
        *commit("on main", label="main"),
        step("branch", name="back", snapshot="@main"),
        step("reset_branch", name="back", snapshot="@first"),
        *session("back"),
        step("group", path="only-here"),
        *commit("after the reset"),
    ],
)

COMMITS = Content(
    "commit properties",
    [
        *session(),
        step("group", path=""),
        *commit("", metadata={"author": "someone", "n": 1, "x": 0.5, "flag": False, "none": None}),
        *session(),
        step("group", path="b"),
        *commit("многострочное\n\nmessage ☃", metadata={"deep": {"list": [1, [2, {"three": "3"}]], "big": 2**53}}),
        *session(),
        step("group", path="c"),
        *commit("x" * 5000, metadata={"long": "y" * 70000, "minus": -1, "tiny": -(2**40)}),
    ],
)

CONFIG = Content(
    "every setting",
    [*session(), step("group", path=""), *small_array("a"), *commit("one")],
    config={
        "inline_chunk_threshold_bytes": 99,
        "get_partial_values_concurrency": 7,
        "max_concurrent_requests": 33,
        "compression_level": 5,
        "caching": {
            "num_snapshot_nodes": 1,
            "num_chunk_refs": 2,
            "num_transaction_changes": 3,
            "num_bytes_attributes": 4,
            "num_bytes_chunks": 5,
        },
        "storage": {
            "concurrency": {"max_concurrent_requests_for_object": 3, "ideal_concurrent_request_size": 1000},
            "retries": {"max_tries": 3, "initial_backoff_ms": 11, "max_backoff_ms": 1200},
            "unsafe_use_conditional_create": True,
            "unsafe_use_conditional_update": False,
            "unsafe_use_metadata": False,
            "minimum_size_for_multipart_upload": 123456789,
        },
        "preload": {
            "max_total_refs": 17,
            "if": {"or": [{"and": [{"name": "^x$"}, {"refs": [2, 9]}]}, {"path": "/no: # yes/"}, {"always": False}]},
        },
        "splitting": [[{"or": [{"name": "no"}, {"path": "12:30"}]}, [[{"dimension": "~"}, 4], [{"axis": 1}, 2]]]],
        "containers": [DATA],
    },
)

LATER_CONFIG = Content(
    "changed setting",
    [
        step("save_config", config={"inline_chunk_threshold_bytes": 3}),
        *session(),
        step("group", path=""),
        *small_array("a", "u1", compress=False),
        *commit("one"),
        step("open"),
        step("save_config", config={"inline_chunk_threshold_bytes": 40, "containers": [DATA]}),
        *session(),
        step("write", path="a", values={"fill": 1}),
        *commit("two"),
    ],
)

FLUSHED = Content(
    "flushed snapshot",
    [
        *session(),
        step("group", path=""),
        *small_array("a"),
        *commit("base"),
        *session(),
        step("write", path="a", values={"fill": 9}, where=[1, 1]),
        step("flush", message="anonymous", metadata={"k": "v"}, label="anonymous"),
        step("branch", name="named", snapshot="@anonymous"),
        *session("named"),
        step("group", path="later"),
        *commit("on the flushed one"),
    ],
)


def _history(commits: int) -> Steps:
    steps: Steps = [*session(), step("group", path="g"), *small_array("g/a"), *commit("c0", label="c0")]
    for number in range(1, commits):
        steps += [*session(), step("write", path="g/a", values={"fill": number}, where=[number % 4, number % 3])]
        steps += commit(f"c{number}", label=f"c{number}")
    return steps


EXPIRED = Content(
    "expired and collected",
    [
        *_history(6),
        step("tag", name="kept", snapshot="@c1"),
        step("branch", name="side", snapshot="@c2"),
        *session("side"),
        step("group", path="side"),
        *commit("side", label="side"),
        step("expire", older_than={"after": "@c3"}),
        step("collect"),
    ],
    config=TINY,
)

EXPIRED_REFS = Content(
    "expired with refs",
    [
        *_history(4),
        step("tag", name="old", snapshot="@c1"),
        step("branch", name="old", snapshot="@c0"),
        step("expire", older_than={"after": "@c2"}, branches=True, tags=True),
        step("collect"),
        *session(),
        step("group", path="after"),
        *commit("after"),
    ],
    config=TINY,
)

LONG = Content("long history", _history(30), config={"inline_chunk_threshold_bytes": 5})

ROLLING = Content(
    "rolled-over operations log",
    _history(14),
    specs=(2,),
    api=2,
    config={"num_updates_per_repo_info_file": 4},
)

AMENDED = Content(
    "amended",
    [
        *_history(3),
        *session(),
        step("write", path="g/a", values={"fill": 44}, where=[3, 3]),
        step("group", path="amended"),
        step("amend", message="c2, better", metadata={"amended": True}),
        *session(),
        step("group", path="on-top"),
        *commit("on top"),
    ],
    specs=(2,),
    api=2,
    extension=(1,),
)

MOVED = Content(
    "moved nodes",
    [
        *session(),
        step("group", path="g"),
        *small_array("g/a"),
        *small_array("g/b/deep"),
        *commit("nodes"),
        step("rearrange"),
        step("move", source="/g/b", target="/c"),
        step("move", source="/g/a", target="/g/b"),
        *commit("moved"),
        *session(),
        step("write", path="c/deep", values={"fill": 6}, where=[0, 0]),
        step("shift", path="g/b", offset=[1, 0]),
        *commit("written and shifted"),
    ],
    specs=(2,),
    api=2,
    extension=(1,),
)

REPO_INFO = Content(
    "repository metadata",
    [
        step("set_metadata", metadata={"owner": "us", "nested": {"a": [1, 2.5, None]}}),
        step("set_flag", name="delete_tag", value=False),
        *session(),
        step("group", path=""),
        *commit("one"),
        step("set_metadata", metadata={"owner": "them"}),
        step("set_flag", name="create_tag", value=True),
        step("set_status", read_only=True, reason="maintenance"),
        step("set_status", read_only=False),
    ],
    specs=(2,),
    api=2,
)

EMPTY_COMMIT = Content(
    "empty commits",
    [*session(), step("group", path=""), *commit("one"), *session(), step("commit_empty", message="nothing")],
    api=2,
)

UPGRADED = Content(
    "upgraded",
    [
        *REFS.steps,
        step("upgrade"),
        *session(),
        step("group", path="after-the-upgrade"),
        *commit("in the new format"),
    ],
    specs=(1,),
    api=2,
)

FORKED = Content(
    "forked and merged",
    [
        *session(),
        step("group", path=""),
        *small_array("a"),
        *commit("base"),
        *session(),
        step("fork", to="one"),
        step("fork", to="two"),
        step("write", path="a", values={"fill": 21}, where=[[0, 2], [0, 4]], session="one"),
        step("write", path="a", values={"fill": 22}, where=[[2, 4], [0, 4]], session="two"),
        *small_array("new-in-two", session="two"),
        step("merge", others=["one", "two"]),
        *commit("merged"),
    ],
)

REBASED = Content(
    "rebased",
    [
        *session(),
        step("group", path=""),
        *small_array("a"),
        *small_array("b"),
        *commit("base"),
        *session(),
        step("session", session="other"),
        step("write", path="a", values={"fill": 31}, where=[[0, 2], [0, 2]]),
        *commit("first"),
        step("write", path="a", values={"fill": 32}, where=[[2, 4], [2, 4]], session="other"),
        step("group", path="g", session="other"),
        step("commit", message="second", session="other", solver="detect"),
        step("session", session="third"),
        *session(),
        step("write", path="b", values={"fill": 33}, where=[[0, 2], [0, 2]]),
        *commit("third"),
        step("write", path="b", values={"fill": 34}, where=[[0, 2], [0, 4]], session="third"),
        step("commit", message="fourth", session="third", solver="ours"),
    ],
)

CONTENTS = (
    *(
        GROUPS,
        SCALARS,
        EMPTY,
        DTYPES,
        STRINGS,
        RECORDS,
        DIMENSIONS,
        SHARDS,
        SIZES,
        VIRTUAL,
        UNREACHABLE,
        MANY_VIRTUAL,
        SPLIT,
    ),
    *(RESPLIT, NODES, REFS, COMMITS, CONFIG, LATER_CONFIG, FLUSHED, EXPIRED, EXPIRED_REFS, LONG, ROLLING, AMENDED),
    *(MOVED, REPO_INFO, EMPTY_COMMIT, UPGRADED, FORKED, REBASED),
)


def continuation(number: int) -> Steps:
    """A commit that fits on top of any content: a group, an array in it, and an old group's attribute."""
    path = f"continued-{number}"
    return [
        *session(),
        step("group", path=path, attributes={"by": number}),
        *small_array(path + "/a"),
        *commit(f"continued {number}"),
    ]

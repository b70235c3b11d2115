"""Transaction logs: bytes of the reference, coordinates by the thousand, moves, and damaged files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.damage import damages

from icechunk.errors import FormatError
from icechunk.flatbuf.builder import build
from icechunk.flatbuf.schema import Required, Table
from icechunk.format import transaction_log
from icechunk.format.envelope import FileType, open_envelope, seal
from icechunk.format.ids import parse_id
from icechunk.format.schemas import FILE_IDENTIFIER, TRANSACTION_LOG
from icechunk.format.transaction_log import Move, TransactionLog

REPOS = Path(__file__).parent.parent / "golden" / "repos"
SETS = ("new_groups", "new_arrays", "deleted_groups", "deleted_arrays", "updated_arrays", "updated_groups")

LOG_V1 = bytes.fromhex(
    "1c0000004963686b14002c0004001000140018001c0020002400280014000000c60f532ca45b6329d4bf11a53800000028000000200000"
    "00180000000c0000000c0000002c0000000000000000000000000000000000000001000000d44ea141504939de01000000f1309922c1b3"
    "47ea010000000c0000000800100004000c0008000000d44ea141504939de0400000003000000340000001800000004000000deffffff04"
    "0000000100000002000000eeffffff040000000100000001000000000006000800040006000000040000000100000000000000"
)

EMPTY_V2 = bytes.fromhex(
    "200000004963686b00001600300004001000140018001c002000240028002c00160000000b1cc8d6787580f0e33a65343c000000340000"
    "002c0000002400000018000000180000000c00000004000000000000000000000000000000000000000000000000000000000000000000"
    "0000"
)

EMPTY_V2_FILE = bytes.fromhex(
    "494345f09fa78a4348554e4b69632d322e332e302020202020202020202020202020202002040128b52ffd207035020072c40e1bc03573"
    "1b5f83feff4d26a033407c9529cd452e729e4b59b6fa3ca4d10bf576f7f7e5398ae13008080a84453c75912dbbaa47239a4c039e86390b"
    "02003857c1993303"
)

LOG_V2 = bytes.fromhex(
    "200000004963686b00001600300004001000140018001c002000240028002c0016000000c7c440ea7168ee0c7b6703b0a8000000980000"
    "0090000000880000007c0000007c0000000c0000000400000000000000010000000c0000000800100004000c000800000079a08af19c90"
    "76410400000003000000340000001800000004000000deffffff040000000100000002000000eeffffff04000000010000000100000000"
    "0006000800040006000000040000000100000000000000000000000000000000000000000000000100000079a08af19c90764101000000"
    "90f5c3a910ba7e0e"
)

node_ids = st.binary(min_size=8, max_size=8)


@st.composite
def coordinates(draw: st.DrawFn) -> np.ndarray:
    rank = draw(st.integers(0, 4))
    rows = draw(st.lists(st.tuples(*[st.integers(0, 2**32 - 1)] * rank), max_size=8 if rank else 1, unique=True))
    return np.array(sorted(rows), np.uint32).reshape(len(rows), rank if rows else 0)


paths = st.lists(st.text(st.sampled_from("ab-é"), min_size=1, max_size=3), min_size=1, max_size=3).map(
    lambda parts: "/" + "/".join(parts)
)
logs = st.builds(
    TransactionLog,
    id=st.binary(min_size=12, max_size=12),
    updated_chunks=st.dictionaries(node_ids, coordinates(), max_size=6),
    moved_nodes=st.lists(st.builds(Move, paths, paths, node_ids, st.booleans()), max_size=4).map(tuple),
    **{name: st.frozensets(node_ids, max_size=4) for name in SETS},
)


def wrap(payload: bytes, spec: int = 2) -> bytes:
    return seal(payload, FileType.TRANSACTION_LOG, spec=spec, level=1)


def decode(data: bytes) -> TransactionLog:
    return TransactionLog.decode(data, "transactions/X")


# ---- files of the reference


def test_a_log_of_1x() -> None:
    log = decode(wrap(LOG_V1, spec=1))
    array = parse_id("TH7A2GAG94WXW", 8)
    assert log.id == parse_id("RR7N6B54BDHJKN5Z26JG")
    assert log.new_arrays == {array}
    assert len(log.new_groups) == 1
    assert log.updated_arrays == log.updated_groups == log.deleted_arrays == log.deleted_groups == frozenset()
    assert log.updated_chunks.keys() == {array}
    assert log.updated_chunks[array].tolist() == [[0], [1], [2]]
    assert log.moved_nodes == ()
    assert log.num_changes == 5


def test_a_log_of_2x() -> None:
    log = decode(wrap(LOG_V2))
    assert log.updated_chunks[parse_id("F6G8NWCWJ1V42", 8)].tolist() == [[0], [1], [2]]
    assert log.moved_nodes == ()


def test_the_log_of_the_initial_snapshot_is_empty() -> None:
    assert decode(EMPTY_V2_FILE) == decode(wrap(EMPTY_V2)) == TransactionLog(parse_id("1CECHNKREP0F1RSTCMT0"))
    assert not decode(EMPTY_V2_FILE)


@pytest.mark.parametrize("path", sorted(REPOS.glob("*/transactions/*")), ids=lambda path: path.name)
def test_logs_of_all_fixtures_survive_being_written_again(path: Path) -> None:
    data = path.read_bytes()
    log = decode(data)
    assert decode(log.encode(data[36])) == log


# ---- round trips


@pytest.fixture(scope="module", params=[transaction_log._FEW, -1], ids=["one by one", "by columns"])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both ways to write the coordinates of a small log."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction_log, "_FEW", request.param)
        yield


@pytest.mark.usefixtures("way")
@given(logs)
def test_what_is_written_is_read(log: TransactionLog) -> None:
    found = decode(log.encode(2))
    for name in SETS:
        assert getattr(found, name) == getattr(log, name)
    assert {key: coords.tolist() for key, coords in found.updated_chunks.items()} == {
        key: coords.tolist() for key, coords in log.updated_chunks.items()
    }
    assert sorted(found.moved_nodes) == sorted(log.moved_nodes)
    assert found.num_changes == log.num_changes


def test_spec_1_has_no_moves() -> None:
    log = TransactionLog(b"i" * 12, moved_nodes=(Move("/a", "/b", b"n" * 8, True),))
    _, payload = open_envelope(log.encode(1), FileType.TRANSACTION_LOG, "log")
    assert decode(log.encode(1)).moved_nodes == ()
    assert b"/a" not in bytes(payload)


def test_moves_are_written_in_the_order_of_the_tree() -> None:
    moves = tuple(Move(f"/from{path}", path, b"n" * 8, False) for path in ("/a-b", "/a/x", "/a"))
    found = decode(TransactionLog(b"i" * 12, moved_nodes=moves).encode(2))
    assert [move.target for move in found.moved_nodes] == ["/a", "/a/x", "/a-b"]


def test_a_hundred_thousand_coordinates() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(50, dtype=np.uint32)] * 3, indexing="ij"), -1).reshape(-1, 3)
    chunks = {b"cube0000": grid, b"line0000": np.arange(1000, dtype=np.uint32)[:, None], b"point000": grid[:1, :0]}
    found = decode(TransactionLog(b"i" * 12, updated_chunks=chunks).encode(2))
    for node_id, coords in chunks.items():
        assert np.array_equal(found.updated_chunks[node_id], coords)


@pytest.mark.usefixtures("way")
def test_coordinates_are_put_in_order_on_writing_and_on_reading() -> None:
    coords = np.array([[2, 0], [0, 1], [2, 0], [1, 9]], np.uint32)
    found = decode(TransactionLog(b"i" * 12, updated_chunks={b"n" * 8: coords}).encode(2))
    assert found.updated_chunks[b"n" * 8].tolist() == [[0, 1], [1, 9], [2, 0]]
    found = decode(wrap(by_hand([(b"n" * 8, coords.tolist())])))
    assert found.updated_chunks[b"n" * 8].tolist() == [[0, 1], [1, 9], [2, 0]]


def by_hand(chunks: list[tuple[bytes, list[list[int]]]], **values: object) -> bytes:
    """A log as any other flatbuffers writer may lay it out."""
    root: dict[str, object] = {name: [] for name in SETS}
    root |= {"id": b"i" * 12, "updated_chunks": []}
    root["updated_chunks"] = [
        {"node_id": node_id, "chunks": [{"coords": coords} for coords in rows]} for node_id, rows in chunks
    ]
    return build(TRANSACTION_LOG, root | values, FILE_IDENTIFIER)


def test_an_array_may_be_listed_without_chunks_or_twice() -> None:
    log = decode(wrap(by_hand([(b"a" * 8, []), (b"b" * 8, [[3]]), (b"b" * 8, [[1], [3]])])))
    assert log.updated_chunks[b"a" * 8].shape[0] == 0
    assert log.updated_chunks[b"b" * 8].tolist() == [[1], [3]]


def test_coordinates_of_another_rank_name_no_chunk() -> None:
    log = decode(wrap(by_hand([(b"a" * 8, [[0], [0, 1], [2, 3], [1, 2, 3]]), (b"b" * 8, [[7]])])))
    assert log.updated_chunks[b"a" * 8].tolist() == [[0, 1], [2, 3]]
    assert log.updated_chunks[b"b" * 8].tolist() == [[7]]


# ---- damage


def test_a_log_without_one_of_its_vectors_is_refused() -> None:
    with pytest.raises(FormatError, match=r"transactions/X: TransactionLog\.updated_groups: missing required field"):
        decode(wrap(build(_with_optional("updated_groups"), _all_but("updated_groups"), FILE_IDENTIFIER)))


def _with_optional(name: str) -> Table:
    fields = {
        field.name: Required(field.type) if field.required and field.name != name else field.type
        for field in TRANSACTION_LOG.fields.values()
    }
    return Table("TransactionLog", **fields)


def _all_but(name: str) -> dict[str, object]:
    root: dict[str, object] = {each: [] for each in SETS if each != name}
    return root | {"id": b"i" * 12, "updated_chunks": []}


def test_a_file_of_another_kind_is_refused() -> None:
    with pytest.raises(FormatError, match="expected TransactionLog got Snapshot"):
        decode(seal(LOG_V2, FileType.SNAPSHOT, spec=2, level=1))


def test_damaged_logs_raise_nothing_but_format_errors() -> None:
    mixed = by_hand(
        [(b"a" * 8, [[0], [1]]), (b"b" * 8, [[1, 2, 3]]), (b"c" * 8, [])],
        moved_nodes=[{"from": "/a", "to": "/b", "node_id": b"m" * 8, "node_type": 1}],
        new_groups=[b"g" * 8],
    )
    ours = _payload(decode(wrap(mixed)))
    for payload in (LOG_V1, LOG_V2, mixed, ours):
        for damaged in damages(payload, 11, 500):
            try:
                log = decode(wrap(damaged))
            except FormatError:
                continue
            decode(log.encode(2))


def _payload(log: TransactionLog) -> bytes:
    return bytes(open_envelope(log.encode(2), FileType.TRANSACTION_LOG, "log")[1])

"""What a file says of its snapshot is the same whether the whole of it is set up or its head alone is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.damage import damages

from icechunk.errors import FormatError
from icechunk.format.snapshot import Snapshot, encode_initial_snapshot, encode_snapshot
from icechunk.format.snapshot_head import read_record, record_of

REPOS = Path(__file__).parent.parent / "golden" / "repos"
ID = bytes(range(12))


def encoded(spec: int, parent: bytes | None, message: str, metadata: dict[str, object]) -> bytes:
    return encode_snapshot(
        spec=spec,
        id=ID,
        parent_id=parent,
        flushed_at=1_700_000_000_123_456,
        message=message,
        metadata=metadata,
        base=Snapshot.decode(encode_initial_snapshot(spec, 1), "base"),
        changes={},
        add_manifests=(),
        drop_manifests=(),
    )


@pytest.mark.parametrize("path", sorted(REPOS.glob("*/snapshots/*")), ids=lambda path: path.name)
def test_snapshots_of_the_reference(path: Path) -> None:
    data = path.read_bytes()
    assert read_record(ID, data, "file") == record_of(ID, Snapshot.decode(data, "file"))


@given(
    spec=st.sampled_from([1, 2]),
    parent=st.none() | st.binary(min_size=12, max_size=12),
    message=st.text(max_size=200),
    metadata=st.dictionaries(st.text(max_size=5), st.none() | st.integers(0, 9) | st.text(max_size=9), max_size=3),
)
def test_what_is_written_is_read(spec: int, parent: bytes | None, message: str, metadata: dict[str, object]) -> None:
    data = encoded(spec, parent, message, metadata)
    found = read_record(ID, data, "file")
    assert found == record_of(ID, Snapshot.decode(data, "file"))
    assert (found.message, found.metadata) == (message, metadata)


def test_a_snapshot_too_large_to_be_read_in_one_go() -> None:
    data = encoded(1, ID, "long" * 1_000_000, {})
    assert read_record(ID, data, "file") == record_of(ID, Snapshot.decode(data, "file"))


@pytest.mark.parametrize("spec", [1, 2])
def test_damaged_files_raise_nothing_but_format_errors(spec: int) -> None:
    data = encoded(spec, ID, "message", {"author": "somebody"})
    for damaged in damages(data, 7, 300):
        try:
            read_record(ID, damaged, "file")
        except FormatError:
            continue

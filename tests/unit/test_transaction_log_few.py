"""Small logs are read value by value, and say the same as by column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.damage import damages

from icechunk.errors import FormatError
from icechunk.format import transaction_log
from icechunk.format.envelope import FileType, open_envelope, seal
from icechunk.format.transaction_log import TransactionLog
from icechunk.format.transaction_log_few import MOST

REPOS = Path(__file__).parent.parent / "golden" / "repos"


def by_column(data: bytes) -> TransactionLog:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction_log, "read_few_chunks", lambda doc, vector: None)
        return TransactionLog.decode(data, "log")


@pytest.mark.parametrize("path", sorted(REPOS.glob("*/transactions/*")), ids=lambda path: path.name)
def test_logs_of_the_reference(path: Path) -> None:
    data = path.read_bytes()
    assert TransactionLog.decode(data, "log") == by_column(data)


@st.composite
def small_logs(draw: st.DrawFn) -> TransactionLog:
    chunks = {}
    for node_id in draw(st.sets(st.binary(min_size=8, max_size=8), max_size=4)):
        rank = draw(st.integers(1, 3))
        rows = draw(st.sets(st.tuples(*[st.integers(0, 2**32 - 1)] * rank), max_size=MOST // 2))
        chunks[node_id] = np.array(sorted(rows), np.uint32).reshape(len(rows), rank if rows else 0)
    return TransactionLog(b"i" * 12, updated_arrays=frozenset(chunks), updated_chunks=chunks)


@given(small_logs())
def test_what_is_written_is_read(log: TransactionLog) -> None:
    data = log.encode(2)
    assert TransactionLog.decode(data, "log") == by_column(data) == log


def test_both_ways_read_the_same_of_damaged_logs() -> None:
    chunks = {b"a" * 8: np.array([[0, 1], [0, 2]], np.uint32), b"b" * 8: np.array([[3]], np.uint32)}
    log = TransactionLog(b"i" * 12, new_arrays=frozenset([b"a" * 8]), updated_chunks=chunks)
    _, payload = open_envelope(log.encode(2), FileType.TRANSACTION_LOG, "log")
    for damaged in damages(bytes(payload), 5, 400):
        data = seal(damaged, FileType.TRANSACTION_LOG, spec=2, level=1)
        try:
            expected = by_column(data)
        except FormatError:
            expected = None
        try:
            found = TransactionLog.decode(data, "log")
        except FormatError:
            found = None
        assert found is None or expected is None or found == expected

"""Sets of object ids that stay in numpy, and ids as text by the million.

A repository may have many millions of chunks. Here an id costs its 12 bytes, and a question about a million ids is a few
passes over arrays. A set is a list of sorted runs, merged as they grow alike, so adding in batches stays cheap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from icechunk.format.ids import OBJECT_ID_SIZE

Ids: TypeAlias = npt.NDArray[np.uint8]
"""Ids as rows of 12 bytes."""

Mask: TypeAlias = npt.NDArray[np.bool_]

_TEXT_SIZE = 20
_ALPHABET = np.frombuffer(b"0123456789ABCDEFGHJKMNPQRSTVWXYZ", np.uint8)
_INVALID = 255
_VALUES = np.full(256, _INVALID, np.uint8)
_FIRST_BYTE = 5 * np.arange(_TEXT_SIZE) // 8
"""The byte in which each character's five bits begin; they may end in the next one."""
_SHIFT = (11 - 5 * np.arange(_TEXT_SIZE) % 8).astype(np.uint16)
_VALUES[_ALPHABET] = np.arange(32, dtype=np.uint8)


def as_ids(ids: Iterable[bytes]) -> Ids:
    """Single ids as rows."""
    return np.frombuffer(b"".join(ids), np.uint8).reshape(-1, OBJECT_ID_SIZE)


def parse_names(names: Iterable[str]) -> tuple[Ids, Mask]:
    """The ids of file names, and which of the names are ids at all, in the form in which they are written."""
    fixed = [name.encode() for name in names]
    good = np.fromiter((len(name) == _TEXT_SIZE for name in fixed), np.bool_, len(fixed))
    text = b"".join(name for name in fixed if len(name) == _TEXT_SIZE)
    values = _VALUES[np.frombuffer(text, np.uint8).reshape(-1, _TEXT_SIZE)]
    right = (values != _INVALID).all(axis=1) & (values[:, -1] & 15 == 0)
    bits = np.unpackbits(values[right][:, :, None], axis=2)[:, :, 3:].reshape(-1, 5 * _TEXT_SIZE)
    good[good] = right
    return np.packbits(bits[:, : 8 * OBJECT_ID_SIZE], axis=1), good


def format_names(ids: Ids) -> list[str]:
    """The text form of every id."""
    padded = np.zeros((len(ids), OBJECT_ID_SIZE + 1), np.uint16)
    padded[:, :-1] = ids
    pairs = padded[:, _FIRST_BYTE] << 8 | padded[:, _FIRST_BYTE + 1]
    text = _ALPHABET[pairs >> _SHIFT & 31].tobytes().decode("ascii")
    return [text[start : start + _TEXT_SIZE] for start in range(0, len(text), _TEXT_SIZE)]


class _Run(NamedTuple):
    """Ids in order, each split into its first 8 and its last 4 bytes."""

    head: npt.NDArray[np.uint64]
    tail: npt.NDArray[np.uint32]


def _split(ids: Ids) -> _Run:
    flat = np.ascontiguousarray(ids, np.uint8).reshape(-1, OBJECT_ID_SIZE)
    head = np.ascontiguousarray(flat[:, :8]).view(">u8")[:, 0].astype(np.uint64)
    return _Run(head, np.ascontiguousarray(flat[:, 8:]).view(">u4")[:, 0].astype(np.uint32))


def _find(run: _Run, wanted: _Run) -> Mask:
    """Which of `wanted` are in a run. Ids that agree in their first 8 bytes stand side by side."""
    found = np.zeros(len(wanted.head), np.bool_)
    at = np.searchsorted(run.head, wanted.head)
    left = np.flatnonzero(at < len(run.head))
    while len(left):
        left = left[run.head[at[left]] == wanted.head[left]]
        hit = run.tail[at[left]] == wanted.tail[left]
        found[left[hit]] = True
        left = left[~hit]
        at[left] += 1
        left = left[at[left] < len(run.head)]
    return found


class IdSet:
    """A set of ids. It only grows."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        return sum(len(run.head) for run in self._runs)

    def __iter__(self) -> Iterator[bytes]:
        for run in self._runs:
            rows = np.empty((len(run.head), OBJECT_ID_SIZE), np.uint8)
            rows[:, :8] = run.head.astype(">u8").view(np.uint8).reshape(-1, 8)
            rows[:, 8:] = run.tail.astype(">u4").view(np.uint8).reshape(-1, 4)
            yield from (row.tobytes() for row in rows)

    def contains(self, ids: Ids) -> Mask:
        """Which of `ids` are in the set."""
        split = _split(ids)
        order = np.argsort(split.head)  # looking up in order is an order of magnitude faster
        found = np.empty(len(order), np.bool_)
        found[order] = self._contains(_Run(split.head[order], split.tail[order]))
        return found

    def _contains(self, wanted: _Run) -> Mask:
        """As `contains`, for ids in order."""
        found = np.zeros(len(wanted.head), np.bool_)
        for run in self._runs:
            rest = np.flatnonzero(~found)
            found[rest] = _find(run, _Run(wanted.head[rest], wanted.tail[rest]))
        return found

    def add(self, ids: Ids) -> Mask:
        """Add ids; returns which of them are new, each one once."""
        new = np.zeros(len(ids), np.bool_)
        if not len(ids):
            return new
        split = _split(ids)
        order = np.argsort(split.head)
        if (split.head[order[1:]] == split.head[order[:-1]]).any():
            order = np.lexsort((split.tail, split.head))
        head, tail = split.head[order], split.tail[order]
        first = np.ones(len(order), np.bool_)
        first[1:] = (head[1:] != head[:-1]) | (tail[1:] != tail[:-1])
        first[first] = ~self._contains(_Run(head[first], tail[first]))
        new[order[first]] = True
        if first.any():
            self._runs.append(_Run(head[first], tail[first]))
            self._merge()
        return new

    def _merge(self) -> None:
        while len(self._runs) > 1 and len(self._runs[-2].head) <= 2 * len(self._runs[-1].head):
            one, two = self._runs.pop(), self._runs.pop()
            head, tail = np.concatenate((one.head, two.head)), np.concatenate((one.tail, two.tail))
            order = np.argsort(head, kind="stable")
            self._runs.append(_Run(head[order], tail[order]))

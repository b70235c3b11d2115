"""A column of optional strings: distinct strings once, and for each row the number of its string, or -1 for none.

A million virtual references name a few thousand files. Kept this way a column is four bytes a row, is cut and merged by
numpy alone, and each string exists once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from operator import eq
from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int32]

_SAMPLE = 1_000


class TextColumn:
    """`at(row)` reads one string; `codes` and `distinct` are the whole. Treat both as immutable.

    `distinct` may hold strings that no row uses any more.
    """

    __slots__ = ("_codes", "_distinct")

    def __init__(self, codes: Codes, distinct: list[str]) -> None:
        self._codes: Codes | None = codes
        self._distinct: list[str] | None = distinct

    @classmethod
    def factorise(cls, values: Sequence[str | None] | npt.NDArray[Any]) -> TextColumn:
        """The column that reads as `values`; its distinct strings in order of first use."""
        items = values.tolist() if isinstance(values, np.ndarray) else values
        starts = _run_starts(items)
        if starts is not None:
            heads = cls.factorise([items[start] for start in starts.tolist()])
            return cls(np.repeat(heads.codes, np.diff(starts, append=len(items))), heads.distinct)
        distinct: list[Any] = list(dict.fromkeys(items))
        if len(distinct) == 1 and distinct[0] is not None:
            return cls.constant(distinct[0], len(items))
        texts = [text for text in distinct if text is not None]
        numbers: dict[Any, int] = {text: number for number, text in enumerate(texts)}
        numbers[None] = -1
        return cls(np.fromiter(map(numbers.__getitem__, items), np.int32, len(items)), texts)

    @classmethod
    def of_codes(cls, codes: npt.ArrayLike, distinct: Sequence[str]) -> TextColumn:
        """The column of given codes; strings that occur twice in `distinct` are made one."""
        numbers = np.ascontiguousarray(codes, np.int32)
        texts = list(distinct)
        if numbers.size and not -1 <= int(numbers.min()) <= int(numbers.max()) < len(texts):
            raise ValueError(f"codes must lie between -1 and {len(texts) - 1}")
        unique = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        if len(unique) < len(texts):
            renumber = np.array([*(unique[text] for text in texts), -1], np.int32)
            return cls(renumber[numbers], list(unique))
        return cls(numbers, texts)

    @classmethod
    def constant(cls, text: str, count: int) -> TextColumn:
        """The same string in each of `count` rows."""
        return cls(np.zeros(count, np.int32), [text])

    @staticmethod
    def absent(count: int) -> TextColumn:
        """No string in any of `count` rows."""
        return TextColumn(np.full(count, -1, np.int32), [])

    @property
    def codes(self) -> Codes:
        """For each row the position of its string in `distinct`, -1 for none."""
        assert self._codes is not None
        return self._codes

    @property
    def distinct(self) -> list[str]:
        """The strings, each once."""
        assert self._distinct is not None
        return self._distinct

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def nbytes(self) -> int:
        """Memory taken, about."""
        return int(self.codes.nbytes) + sum(map(len, self.distinct)) + 58 * len(self.distinct)

    def at(self, row: int) -> str | None:
        """The string of one row."""
        code: int = self.codes.item(row)
        return None if code < 0 else self.distinct[code]

    def take(self, rows: Any) -> TextColumn:
        """The column of some rows: a mask, a slice, or their numbers in the order wanted."""
        return TextColumn(self.codes[rows], self.distinct)

    def compact(self) -> TextColumn:
        """The same column without strings that no row uses."""
        codes, distinct = self.codes, self.distinct
        used = np.zeros(len(distinct) + 1, bool)
        used[codes] = True
        used[-1] = False
        if int(used.sum()) == len(distinct):
            return TextColumn(codes, distinct)
        renumber = np.cumsum(used, dtype=np.int32) - np.int32(1)
        renumber[-1] = -1
        return TextColumn(renumber[codes], [distinct[number] for number in np.flatnonzero(used).tolist()])

    def present(self) -> bool:
        """Whether any row has a string."""
        return bool((self.codes >= 0).any())

    def __reduce__(self) -> tuple[Callable[..., TextColumn], tuple[Codes, list[str]]]:
        whole = self.compact()
        return TextColumn, (whole.codes, whole.distinct)


def join_texts(columns: Sequence[TextColumn | None], counts: Sequence[int]) -> TextColumn | None:
    """One column after the other, `counts` rows each; None where there is no string at all."""
    present = [column for column in columns if column is not None]
    if not present:
        return None
    if all(column is not None and column.distinct is present[0].distinct for column in columns):
        return TextColumn(np.concatenate([column.codes for column in present]), present[0].distinct)
    numbers: dict[str, int] = {}
    parts: list[Codes] = []
    for column, count in zip(columns, counts, strict=True):
        if column is None:
            parts.append(np.full(count, -1, np.int32))
            continue
        renumber = np.array([*(numbers.setdefault(text, len(numbers)) for text in column.distinct), -1], np.int32)
        parts.append(renumber[column.codes])
    return TextColumn(np.concatenate(parts), list(numbers))


def _run_starts(items: Sequence[str | None]) -> npt.NDArray[np.intp] | None:
    """Where each run of equal neighbours starts; None where they are mostly different, or few.

    Chunks of one file usually stand side by side. To compare neighbours takes a third of looking every string up.
    """
    if len(items) < 2 * _SAMPLE or sum(map(eq, items[:_SAMPLE], items[1 : _SAMPLE + 1])) < _SAMPLE * 3 // 4:
        return None
    same = np.fromiter(map(eq, items, islice(items, 1, None)), np.bool_, len(items) - 1)
    if same.all() or 2 * np.count_nonzero(same) < len(items):
        return None
    return np.concatenate(([0], np.flatnonzero(~same) + 1))

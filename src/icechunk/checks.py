"""Checks of arguments: what comes back has the right type and range, everything else is refused at once.

Wrong type: `TypeError`. Integer out of range: `OverflowError`. Zero where it makes no sense: `ValueError`. The messages
name the argument.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

T = TypeVar("T")


def integer(value: Any, name: str, *, bits: int, signed: bool = False, non_zero: bool = False) -> int:
    """`value` as an int that fits in `bits` bits; whatever has `__index__` will do (numpy's integers too)."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(f"argument '{name}': {error}") from None
    low = -(1 << (bits - 1)) if signed else 0
    high = (1 << (bits - signed)) - 1
    if number < low:
        raise OverflowError(f"argument '{name}': {number} is too small, the least is {low}")
    if number > high:
        raise OverflowError(f"argument '{name}': {number} is too large, the most is {high}")
    if non_zero and number == 0:
        raise ValueError(f"argument '{name}': invalid zero value")
    return number


def instance(value: Any, name: str, cls: type[T]) -> T:
    """`value` if it is a `cls`."""
    if not isinstance(value, cls):
        raise TypeError(f"argument '{name}': '{type(value).__name__}' object is not an instance of '{cls.__name__}'")
    return value


def text(value: Any, name: str) -> str:
    """`value` if it is a str."""
    return instance(value, name, str)


def unicode_text(value: Any, name: str) -> str:
    """`value` if it is a str that can be stored: Python lets halves of surrogate pairs stand alone, Unicode does not."""
    try:
        text(value, name).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"argument '{name}' is no Unicode text: {error}") from None
    return str(value)


def flag(value: Any, name: str) -> bool:
    """`value` if it is a bool."""
    return instance(value, name, bool)


def text_map(value: Any, name: str) -> dict[str, str]:
    """A copy of `value`, a dict of str to str."""
    return {text(key, name): text(item, name) for key, item in instance(value, name, dict).items()}


def mapping(value: Any, name: str) -> dict[str, Any]:
    """A copy of `value`, any mapping."""
    if not isinstance(value, Mapping):
        raise TypeError(f"argument '{name}': expected a dict, got '{type(value).__name__}'")
    return dict(value)


def moment(value: Any, name: str) -> datetime:
    """`value` in UTC, if it is a datetime that knows its time zone."""
    when = instance(value, name, datetime)
    if when.tzinfo is None:
        raise TypeError(
            f"argument '{name}': expected a datetime with non-None tzinfo; try datetime.now(timezone.utc) or "
            ".replace(tzinfo=timezone.utc)"
        )
    return when.astimezone(UTC)

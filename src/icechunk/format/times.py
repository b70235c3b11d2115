"""Times in files: microseconds since 1970, UTC."""

from __future__ import annotations

from icechunk.errors import ErrorKind, FormatError

MAX_MICROSECONDS = 253_402_300_800_000_000
"""The year 10000; a time beyond is a damaged file, and no calendar has it."""


def checked_time(microseconds: int, where: str) -> int:
    """A time that a calendar has; raises `FormatError` otherwise, saying `where` it stands."""
    if microseconds >= MAX_MICROSECONDS:
        raise FormatError(
            f"{where}: {microseconds} microseconds lie beyond the year 9999", ErrorKind.INVALID_FILE_FORMAT
        )
    return microseconds

"""Points in time as people give them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def as_micros(moment: datetime | int) -> int:
    """Microseconds since 1970 (UTC). A datetime without a time zone is local time, as Python has it everywhere."""
    if isinstance(moment, int):
        return moment
    if not isinstance(moment, datetime):
        raise TypeError(f"expected a datetime, got {type(moment).__name__}")
    return (moment.astimezone(UTC) - _EPOCH) // _MICROSECOND

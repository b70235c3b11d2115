"""What all credentials share: how they expire, and that they show no secrets."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from icechunk import checks
from icechunk.config.fields import Field, Moment, Settings
from icechunk.display import Card, Row, card_text, masked
from icechunk.variants import Variants


class Expiring(Settings):
    """Credentials that may expire."""

    __slots__ = ()

    expires_after: Any
    _visible: ClassVar[dict[str, int]] = {}
    """How many leading characters of a field are shown, where that is not 0."""

    def _card(self) -> Card:
        rows = [
            Row(name, value if name == "expires_after" else masked(value, self._visible.get(name, 0)))
            for name in self._fields
            for value in (self._values.get(name),)
        ]
        return Card(self._title, rows)

    def __repr__(self) -> str:
        return card_text(self._card())


def expiry(*, settable: bool = True) -> Field[datetime | None]:
    """The field `expires_after`."""
    return Field(Moment(), None, "When they cease to be valid.", settable=settable)


class Family(Variants):
    """Base of the families of credentials: shows which variant it is, and no secret."""

    def __repr__(self) -> str:
        return f"icechunk.credentials.{type(self).__qualname__}({', '.join(map(_summary, self._values()))})"


def _summary(value: Any) -> str:
    if isinstance(value, Family):
        return repr(value)
    if isinstance(value, Expiring):
        return f"<{type(value).__name__}>"
    return "None" if value is None else "****"


def check_refreshable(value: Any, current: type) -> None:
    """Check the content of a variant that holds a function."""
    checks.instance(value.pickled_function, "pickled_function", bytes)
    if value.current is not None:
        checks.instance(value.current, "current", current)

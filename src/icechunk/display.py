"""How values show themselves: one description, three renderings.

A class says once what there is to see, as a `Card` of rows, and gets

- `str(value)` (and `repr(value)`, unless it has a better one): `<icechunk.Thing>` and one line per row, nested cards
  indented;
- `_repr_html_`: the same as a small table for notebooks, readable on light and on dark backgrounds, everything escaped.

`constructor_text` renders the third form, `icechunk.Thing(\n    name=value,\n)`, for values that can be typed again.
Secrets never get here: whoever makes a card puts `masked(secret)` into it.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

_INDENT = "    "


class Row(NamedTuple):
    """One line of a card; `is_default` marks a value that nobody has set."""

    name: str
    value: Any
    is_default: bool = False


class Card(NamedTuple):
    """What there is to see of a value: the name of its class, as users write it, and its rows."""

    title: str
    rows: Sequence[Row] = ()


class Plain(str):
    """Text that is shown as it is, without quotes."""

    __slots__ = ()


class Shown(ABC):
    """Mixin of classes that show themselves as a card."""

    __slots__ = ()

    @abstractmethod
    def _card(self) -> Card:
        """What there is to see."""

    def __str__(self) -> str:
        return card_text(self._card())

    def __repr__(self) -> str:
        return card_text(self._card())

    def _repr_html_(self) -> str:
        return card_html(self._card())


# ---------------------------------------------------------------------------------------------------------------- text


def card_text(card: Card) -> str:
    """The card as lines of text, without a final newline."""
    return "\n".join([f"<{card.title}>", *_row_lines(card.rows)])


def _row_lines(rows: Iterable[Row]) -> list[str]:
    lines: list[str] = []
    for name, value, is_default in rows:
        mark = " (default)" if is_default else ""
        block = _block(value)
        if block is None:
            lines.append(f"{name}: {scalar_text(value)}{mark}")
        else:
            lines.append(f"{name}:")
            lines.extend(_INDENT + line for line in block)
    return lines


def _block(value: Any) -> list[str] | None:
    """The lines of a value that needs more than one, else None."""
    if isinstance(value, Card):
        return card_text(value).split("\n")
    if isinstance(value, Shown):
        return card_text(value._card()).split("\n")
    if isinstance(value, Mapping) and value:
        return _row_lines(Row(masked_url(str(key)), item) for key, item in value.items())
    if isinstance(value, Plain) and "\n" in value:
        return value.split("\n")
    return None


def scalar_text(value: Any) -> str:
    """One value on one line: strings quoted, times readable."""
    if isinstance(value, Plain):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    return repr(value)


def quoted(text: str) -> str:
    """A string literal in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def constructor_text(title: str, values: Iterable[tuple[str, Any]]) -> str:
    """A call that makes the value again, one argument per line."""
    lines = [f"{_INDENT}{name}={_nested(_argument_text(value))}," for name, value in values]
    return "\n".join([f"{title}(", *lines, ")"])


def _argument_text(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict) and value:
        items = (
            f"{_INDENT}{quoted(masked_url(str(key)))}: {_nested(_argument_text(item))}," for key, item in value.items()
        )
        return "\n".join(["{", *items, "}"])
    return repr(value)


def _nested(text: str) -> str:
    return text.replace("\n", "\n" + _INDENT)


# ------------------------------------------------------------------------------------- what is no `Shown` of its own


def session_card(session: Any) -> Card:
    """What there is to see of a session."""
    rows = [Row("read_only", session.read_only), Row("snapshot_id", Plain(session.snapshot_id))]
    if not session.read_only:
        rows.append(Row("branch", None if session.branch is None else Plain(session.branch)))
        rows.append(Row("has_uncommitted_changes", session.has_uncommitted_changes))
    return Card(f"icechunk.session.{type(session).__name__}", rows)


def session_repr(session: Any) -> str:
    """A session as text."""
    return card_text(session_card(session))


def session_html(session: Any) -> str:
    """A session for notebooks."""
    return card_html(session_card(session))


def store_card(store: Any) -> Card:
    """What there is to see of a store."""
    session = store.session
    rows = [Row("read_only", store.read_only), Row("snapshot_id", Plain(session.snapshot_id))]
    if session.branch is not None:
        rows.append(Row("branch", Plain(session.branch)))
    return Card("icechunk.IcechunkStore", rows)


def store_repr(store: Any) -> str:
    """A store as text."""
    return card_text(store_card(store))


def store_html(store: Any) -> str:
    """A store for notebooks."""
    return card_html(store_card(store))


# ------------------------------------------------------------------------------------------------------------- secrets


def masked(secret: str | None, keep: int = 0) -> Plain | None:
    """Stars for a secret. `keep` leading characters stay where the rest is long enough to remain one."""
    if secret is None:
        return None
    return Plain(secret[:keep] + "****") if len(secret) >= 4 * keep and keep else Plain("****")


_SECRET_NAME = re.compile(
    r"secret|token|passw|credential|auth(?!or)|authorization|cookie|signature|bearer|sas|key$",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_SECRET_QUERY = re.compile(r"(?<=[?&])([^=&#\s]*(?:sig|token|secret|credential|key)[^=&#\s]*)=[^&#\s]*", re.IGNORECASE)


def masked_options(options: Mapping[str, str] | None) -> dict[str, str] | None:
    """Free-form options of a client, the values of those that sound like secrets masked."""
    if options is None:
        return None
    return {
        key: Plain("****") if _SECRET_NAME.search(key) else masked_url(value) if isinstance(value, str) else value
        for key, value in options.items()
    }


def masked_url(url: str) -> str:
    """A URL without passwords and signatures."""
    return _SECRET_QUERY.sub(r"\1=****", _USER_INFO.sub("****", url))


# ---------------------------------------------------------------------------------------------------------------- html

# colours are the page's own, only fainter, and a grey that shows on white and on black alike
_STYLE = (
    "<style>"
    ".icechunk-card{font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px;line-height:1.5;"
    "display:inline-block;max-width:100%;box-sizing:border-box;border:1px solid rgba(128,128,128,.35);"
    "border-radius:6px;padding:6px 12px}"
    ".icechunk-card table{border-collapse:collapse;margin:0;background:none;color:inherit;font:inherit}"
    ".icechunk-card tr,.icechunk-card tr:hover{background:none!important}"
    ".icechunk-card th,.icechunk-card td{text-align:left!important;vertical-align:baseline;padding:0 14px 0 0;"
    "border:none;background:none;font-weight:normal;font-size:inherit}"
    ".icechunk-card th{opacity:.65;white-space:nowrap;width:1%}"
    ".icechunk-card td{white-space:pre-wrap;overflow-wrap:anywhere}"
    ".icechunk-card td[colspan]{white-space:normal}"
    ".icechunk-card details>table{margin-left:1.4em}"
    ".icechunk-card summary{cursor:pointer;margin-left:-1.1em}"
    ".icechunk-card details{margin-left:1.1em}"
    ".icechunk-title{font-weight:600}"
    ".icechunk-name{opacity:.65}"
    ".icechunk-default{opacity:.55}"
    "</style>"
)


def _escape(text: str) -> str:
    from html import escape  # with its table of all entities it takes as long to import as all of this

    return escape(text)


def card_html(card: Card) -> str:
    """The card as a fragment of HTML that needs nothing else; what is nested can be unfolded."""
    title = f'<div class="icechunk-title">{_escape(card.title)}</div>'
    return f'{_STYLE}<div class="icechunk-card">{title}{_table_html(card.rows)}</div>'


def _table_html(rows: Iterable[Row]) -> str:
    body = "".join(map(_row_html, rows))
    return f"<table>{body}</table>" if body else ""


def _row_html(row: Row) -> str:
    name, value, is_default = row
    if isinstance(value, Shown):
        value = value._card()
    if isinstance(value, Card):
        return _folded(name, value.title.rpartition(".")[2], _table_html(value.rows))
    if isinstance(value, Mapping) and value:
        return _folded(
            name, "", _table_html(Row(masked_url(str(key)), item) for key, item in value.items()), unfolded=True
        )
    # in a cell of its own a text needs no quotes
    text = _escape(value if isinstance(value, str) else scalar_text(value))
    mark = ' class="icechunk-default" title="default"' if is_default else ""
    return f"<tr><th>{_escape(name)}</th><td{mark}>{text}</td></tr>"


def _folded(name: str, kind: str, table: str, *, unfolded: bool = False) -> str:
    """A row under which there is a table."""
    heading = f'<span class="icechunk-name">{_escape(name)}</span> {_escape(kind)}'.rstrip()
    if not table:
        return f'<tr><td colspan="2">{heading}</td></tr>'
    attribute = " open" if unfolded else ""
    return f'<tr><td colspan="2"><details{attribute}><summary>{heading}</summary>{table}</details></td></tr>'


def without_secrets(url: str) -> str:
    """The URL, which must have none; raises `ValueError`."""
    if masked_url(url) != url:
        raise ValueError(
            f"the credentials cannot be left out: they are a part of the address {masked_url(url)}; give them as headers"
        )
    return url


def public_options(options: Mapping[str, str]) -> dict[str, str]:
    """Options or headers without those that sound like secrets; raises `ValueError` for an address that has one in it."""
    public = {key: value for key, value in options.items() if not _SECRET_NAME.search(key)}
    for value in public.values():
        without_secrets(str(value))
    return public

"""Cards: as text, as HTML, as a call; and what is masked."""

from __future__ import annotations

import ast
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk.display import (
    Card,
    Plain,
    Row,
    Shown,
    card_html,
    card_text,
    constructor_text,
    masked,
    masked_options,
    masked_url,
    quoted,
    session_html,
    session_repr,
    store_html,
    store_repr,
)


class Thing(Shown):
    """Something to show."""

    def __init__(self, *rows: Row) -> None:
        self.rows = rows

    def _card(self) -> Card:
        return Card("icechunk.Thing", self.rows)


class Reader(HTMLParser):
    """Collects the text of a page and checks that its tags are balanced."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)


def test_text() -> None:
    thing = Thing(
        Row("number", 3),
        Row("text", "a b"),
        Row("plain", Plain("a b")),
        Row("nothing", None),
        Row("default", 5, is_default=True),
        Row("time", datetime(2024, 5, 6, 7, tzinfo=UTC)),
        Row("lines", Plain("one\ntwo")),
        Row("nested", Thing(Row("inner", Thing(Row("deep", 1))))),
        Row("empty", {}),
        Row("map", {"k": 1, "thing": Thing()}),
    )
    assert str(thing) == repr(thing) == card_text(thing._card())
    assert (
        str(thing)
        == """\
<icechunk.Thing>
number: 3
text: "a b"
plain: a b
nothing: None
default: 5 (default)
time: 2024-05-06 07:00:00+00:00
lines:
    one
    two
nested:
    <icechunk.Thing>
    inner:
        <icechunk.Thing>
        deep: 1
empty: {}
map:
    k: 1
    thing:
        <icechunk.Thing>"""
    )


def test_html_has_everything_and_nests_well() -> None:
    page = Thing(Row("a", 1), Row("nested", Thing(Row("b", "x"))), Row("map", {"k": Plain("v")}))._repr_html_()
    texts = [text.strip() for text in Reader(page).texts if text.strip()]
    assert texts == ["icechunk.Thing", "a", "1", "nested", "Thing", "b", "x", "map", "k", "v"]
    assert "<details>" in page


def test_html_is_escaped() -> None:
    evil = "<script>alert('1')</script>&\""
    page = card_html(Card(evil, [Row(evil, evil), Row("m", {evil: Plain(evil)}), Row("r", [evil])]))
    assert "<script" not in page
    assert Reader(page).texts[:3] == [evil, evil, evil]


def test_html_takes_its_colours_from_the_page() -> None:
    style = card_html(Card("x")).partition("</style>")[0]
    assert "#" not in style, "a fixed colour would be unreadable on some background"
    assert set(re.findall(r"color:([^;}]+)", style)) == {"inherit"}


def test_constructor() -> None:
    inner = constructor_text("pkg.Inner", [("a", 1)])

    class Inner:
        def __repr__(self) -> str:
            return inner

    text = constructor_text("pkg.Outer", [("none", None), ("text", 'a"b'), ("inner", Inner()), ("map", {"k": Inner()})])
    assert (
        text
        == """\
pkg.Outer(
    none=None,
    text="a\\"b",
    inner=pkg.Inner(
        a=1,
    ),
    map={
        "k": pkg.Inner(
            a=1,
        ),
    },
)"""
    )


@given(st.text())
def test_quoted_texts_are_literals(text: str) -> None:
    shown = quoted(text)
    assert shown[0] == shown[-1] == '"' and "\n" not in shown
    assert ast.literal_eval(shown) == text


@pytest.mark.parametrize(
    ("secret", "keep", "shown"),
    [
        *((None, 0, None), ("secret", 0, "****"), ("", 0, "****"), ("AKIA123456789", 1, "A****")),
        *(("abc", 1, "****"), ("AKIA123456789", 4, "****"), ("AKIA1234567890123", 4, "AKIA****")),
    ],
)
def test_masks(secret: str | None, keep: int, shown: str | None) -> None:
    assert masked(secret, keep) == shown


def test_masked_urls() -> None:
    assert masked_url("https://user:pw@host/p?X-Amz-Signature=abc&a=b&sig=c#f") == (
        "https://****@host/p?X-Amz-Signature=****&a=b&sig=****#f"
    )
    for url in ("s3://bucket/key@home", "https://host/a?b=c", "file:///x/token=1", ""):
        assert masked_url(url) == url


def test_masked_options() -> None:
    given = {
        "account_key": "s",
        "sas_token": "s",
        "Authorization": "s",
        "client_secret": "s",
        "account": "me",
        "n": "1",
    }
    assert masked_options(given) == given | dict.fromkeys(list(given)[:4], "****")
    assert masked_options(None) is None


def test_sessions_and_stores() -> None:
    class Session(SimpleNamespace):
        pass

    session = Session(read_only=False, snapshot_id="1CECHNK", branch="main", has_uncommitted_changes=True)
    assert session_repr(session) == (
        "<icechunk.session.Session>\nread_only: False\nsnapshot_id: 1CECHNK\nbranch: main\nhas_uncommitted_changes: True"
    )
    frozen = Session(read_only=True, snapshot_id="1CECHNK", branch=None)
    assert session_repr(frozen) == "<icechunk.session.Session>\nread_only: True\nsnapshot_id: 1CECHNK"
    store = SimpleNamespace(read_only=False, session=session)
    assert store_repr(store) == "<icechunk.IcechunkStore>\nread_only: False\nsnapshot_id: 1CECHNK\nbranch: main"
    assert Reader(session_html(session)).texts[0] == "icechunk.session.Session"
    assert Reader(store_html(store)).texts[0] == "icechunk.IcechunkStore"

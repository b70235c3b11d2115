"""Paths of nodes: one form, and the relations between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk.errors import InvalidInputError
from icechunk.format.node_path import (
    ancestors,
    is_below,
    is_valid,
    is_within,
    join,
    name,
    parent,
    parse_path,
    segments,
)

names = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=4).filter(
    lambda text: text not in (".", "..")
)
paths = st.lists(names, max_size=4).map(lambda parts: "/" + "/".join(parts))


@pytest.mark.parametrize(
    ("text", "path"),
    [("/", "/"), ("//", "/"), ("/.", "/"), ("/a", "/a"), ("/a/", "/a"), ("/a/./b//", "/a/b"), ("/é x/-", "/é x/-")],
)
def test_users_paths_are_brought_into_one_form(text: str, path: str) -> None:
    assert parse_path(text) == path
    assert is_valid(path)


@pytest.mark.parametrize("text", ["", "a", "a/b", "./a", "/a//b", "/..", "/a/../b"])
def test_what_is_no_path(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_path(text)
    assert caught.value.kind == "invalid-path"
    assert not is_valid(text)


def test_a_path_is_text() -> None:
    with pytest.raises(TypeError):
        parse_path(b"/a")  # type: ignore[arg-type]


def test_a_path_with_a_slash_at_its_end_is_not_in_the_stored_form() -> None:
    assert not is_valid("/a/")


def test_siblings_with_a_common_beginning_are_not_below_each_other() -> None:
    assert not is_below("/g-b", "/g")
    assert not is_within("/gx/y", "/g")
    assert is_below("/g/h", "/g")
    assert not is_below("/g", "/g")
    assert is_within("/g", "/g")


def test_the_root_is_above_all_but_itself() -> None:
    assert is_below("/a", "/")
    assert not is_below("/", "/")
    assert is_within("/", "/")
    assert parent("/") is None
    assert name("/") == ""
    assert segments("/") == ()


@given(paths)
def test_segments_and_joins_undo_each_other(path: str) -> None:
    built = "/"
    for segment in segments(path):
        built = join(built, segment)
    assert built == path
    assert parse_path(path) == path


@given(paths)
def test_ancestors_are_the_parents_up_to_the_root(path: str) -> None:
    above = list(ancestors(path))
    assert len(above) == len(segments(path))
    assert all(is_below(path, ancestor) for ancestor in above)
    if above:
        assert above[0] == parent(path)
        assert above[-1] == "/"
        assert join(above[0], name(path)) == path

"""Every public name of the Rust package exists here, with the same kind and a signature that takes the same calls."""

from __future__ import annotations

import inspect

import pytest

import icechunk
from tests.api.surface import ON_PURPOSE, VERSIONS, Name, compare, find, reference

NAMES = sorted(
    {name for version in VERSIONS for name in reference(version)}, key=lambda name: (name.dotted, name.signature)
)
OWNERS = sorted({name.dotted.partition(".")[0] for name in NAMES})


@pytest.mark.parametrize("owner", OWNERS)
def test_names(owner: str) -> None:
    """Grouped by the first part of the name: a class with its members, a function, or a module."""
    wrong = {}
    for name in NAMES:
        if name.dotted.partition(".")[0] == owner and name.dotted not in ON_PURPOSE:
            difference = compare(name)
            if difference:
                wrong[f"{name.dotted}{name.signature}"] = difference
    assert not wrong


def test_the_list_of_exceptions_is_not_stale() -> None:
    assert [dotted for dotted in ON_PURPOSE if not any(compare(name) for name in NAMES if name.dotted == dotted)] == []


def test_async_twins_take_the_same_arguments() -> None:
    for owner in (icechunk.Repository, icechunk.Session, icechunk.ForkSession, icechunk.IcechunkStore):
        for twin_name in dir(owner):
            if not twin_name.endswith("_async") or twin_name.startswith("_"):
                continue
            twin = getattr(owner, twin_name)
            plain = getattr(owner, twin_name.removesuffix("_async"))
            assert inspect.signature(twin).parameters.keys() == inspect.signature(plain).parameters.keys(), twin_name
            assert not inspect.iscoroutinefunction(plain), plain


def test_wrong_arguments_are_reported_of_what_was_called() -> None:
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    with pytest.raises(TypeError, match=r"^Repository\.create_branch\(\) got an unexpected keyword argument 'name'$"):
        repo.create_branch(name="b", snapshot_id="1CECHNKREP0F1RSTCMT0")  # type: ignore[call-arg]


def test_everything_exported_exists() -> None:
    for name in icechunk.__all__:
        assert hasattr(icechunk, name), name


def test_version_says_which_api_is_offered() -> None:
    assert icechunk.__version__.startswith("2.3.0")


def test_a_missing_name_would_be_noticed() -> None:
    assert compare(Name("Repository.no_such_thing", "method", "()")) == "missing"
    assert compare(Name("Repository.lookup_tag", "method", "(tag, more)")) == "takes no more"
    assert compare(Name("Repository.lookup_tag", "async method", "(tag)")) == "is not asynchronous"
    assert find("no_such_module.x") is not None

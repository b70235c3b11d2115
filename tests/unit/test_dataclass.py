"""`icechunk._dataclass.dataclass` does what the standard library's does."""

from __future__ import annotations

import collections.abc
import copy
import dataclasses
import inspect
import pickle
import typing
from collections.abc import Callable
from typing import Any

import pytest

from icechunk._dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Ours:
    a: int
    b: str = "b"
    c: list[int] = dataclasses.field(default_factory=list, compare=False)
    d: str = dataclasses.field(default="d", repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Theirs:
    a: int
    b: str = "b"
    c: list[int] = dataclasses.field(default_factory=list, compare=False)
    d: str = dataclasses.field(default="d", repr=False)


@dataclass
class Changing:
    a: int
    made: list[int] = dataclasses.field(default_factory=list, init=False)
    doubled: int = 0

    def __post_init__(self) -> None:
        self.doubled = 2 * self.a


@dataclass(frozen=True)
class Base:
    a: int


@dataclass(frozen=True)
class Derived(Base):
    b: int = 1


@dataclass(frozen=True, eq=False)
class ByIdentity:
    a: int


@dataclass(frozen=True)
class Annotated:
    of: Callable[[Any], Any]


@dataclass(frozen=True, slots=True, order=True)
class Ordered:
    a: int


@dataclass(frozen=True)
class WithItsOwn:
    a: int

    def __init__(self) -> None:
        object.__setattr__(self, "a", 7)

    def __repr__(self) -> str:
        return "mine"

    def __hash__(self) -> int:
        return 3


@pytest.mark.parametrize(
    "of",
    [
        lambda cls: str(inspect.signature(cls)),
        lambda cls: repr(cls(1)).removeprefix(cls.__name__),
        lambda cls: dataclasses.astuple(dataclasses.replace(cls(1), b="x")),
        lambda cls: [item.name for item in dataclasses.fields(cls)],
        lambda cls: cls.__match_args__,
        lambda cls: cls(1) == cls(1, c=[1]),
        lambda cls: cls(1) == cls(2),
        lambda cls: cls(1) == object(),
        lambda cls: hash(cls(1)) == hash(cls(1, c=[1])),
        lambda cls: cls(1).c is cls(1).c,
        lambda cls: hasattr(cls(1), "__dict__"),
        lambda cls: str(inspect.signature(cls, eval_str=True)),
        lambda cls: (cls.__init__.__module__, cls.__init__.__name__),
        lambda cls: dataclasses.astuple(copy.deepcopy(cls(1, "x", [2]))),
    ],
)
def test_as_the_standard_one(of: Callable[[Any], Any]) -> None:
    assert of(Ours) == of(Theirs)


@pytest.mark.parametrize("arguments", [(), (1, 2, 3, 4, 5)])
def test_wrong_arguments_are_told_as_by_the_standard_one(arguments: tuple[int, ...]) -> None:
    with pytest.raises(TypeError) as ours:
        Ours(*arguments)
    with pytest.raises(TypeError) as theirs:
        Theirs(*arguments)
    assert str(ours.value) == str(theirs.value).replace("Theirs", "Ours")


def test_frozen_instances_refuse_changes_and_survive_pickling() -> None:
    value = Ours(1, "x", [3])
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'a'"):
        value.a = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'a'"):
        del value.a  # type: ignore[misc]
    assert dataclasses.astuple(pickle.loads(pickle.dumps(value))) == (1, "x", [3], "d")


def test_post_init_and_fields_that_are_not_parameters() -> None:
    value = Changing(4)
    assert (value.doubled, value.made) == (8, [])
    assert value.made is not Changing(4).made
    value.a = 5
    assert value == value and Changing(5) != Changing(4)
    with pytest.raises(TypeError, match="unhashable"):
        hash(value)


def test_derived_classes_have_all_fields() -> None:
    assert repr(Derived(1, b=2)) == "Derived(a=1, b=2)"
    assert Derived(1) != Base(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Derived(1).a = 3  # type: ignore[misc]


def test_comparison_is_what_was_asked_for() -> None:
    one = ByIdentity(1)
    assert one == one and one != ByIdentity(1) and len({one, ByIdentity(1)}) == 2
    assert sorted([Ordered(2), Ordered(1)]) == [Ordered(1), Ordered(2)]
    assert Ordered(1) <= Ordered(1) < Ordered(2) and Ordered(2) >= Ordered(2) > Ordered(1)
    with pytest.raises(TypeError, match="not supported between"):
        _ = Ordered(1) < 2  # type: ignore[operator]


def test_annotations_are_looked_up_where_the_class_is() -> None:
    assert typing.get_type_hints(Annotated.__init__) == {
        "of": collections.abc.Callable[[Any], Any],
        "return": type(None),
    }
    assert (
        inspect.signature(Annotated, eval_str=True).parameters["of"].annotation == collections.abc.Callable[[Any], Any]
    )


def test_methods_of_the_class_stay() -> None:
    assert (WithItsOwn().a, repr(WithItsOwn()), hash(WithItsOwn())) == (7, "mine", 3)

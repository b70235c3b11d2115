"""`dataclass` as in the standard library, without most of its cost at import time.

The standard one compiles half a dozen functions for every class, about 0.5 ms each time; a process that only opens a
repository meets eighty classes and uses a dozen of them. Here the standard one only collects the fields (and makes the
slots). Of the methods, `__init__` is compiled when a class is first instantiated or inspected, and the others need no
compiling. Whatever else the standard library does with dataclasses (`fields`, `replace`, `match`, pickling) works; only a
subclass that is to be a frozen dataclass has to be made by this one too.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from operator import attrgetter, ge, gt, le, lt
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass

_set = object.__setattr__


class _Factory:
    """Stands in a signature for a default that is made anew for every instance."""

    def __repr__(self) -> str:
        return "<factory>"


_FACTORY = _Factory()


class _Init:
    """`__init__` of a class until somebody asks for it; then the function takes its place."""

    def __init__(self, owner: type, frozen: bool) -> None:
        self._owner, self._frozen = owner, frozen

    def __get__(self, instance: object, owner: type) -> Any:
        function = _compile_init(self._owner, self._frozen)
        type.__setattr__(self._owner, "__init__", function)
        return function if instance is None else function.__get__(instance, owner)


def _compile_init(cls: type, frozen: bool) -> Any:
    scope: dict[str, Any] = {"_set": _set, "_FACTORY": _FACTORY}
    positional: list[str] = []
    by_name: list[str] = []
    body: list[str] = []
    for item in dataclasses.fields(cls):
        name, value = item.name, item.name
        if item.default_factory is not dataclasses.MISSING:
            scope[f"_make_{name}"] = item.default_factory
            value = f"_make_{name}() if {name} is _FACTORY else {name}" if item.init else f"_make_{name}()"
            default = "=_FACTORY"
        elif item.default is not dataclasses.MISSING:
            scope[f"_default_{name}"] = item.default
            default = f"=_default_{name}"
            value = name if item.init else default[1:]
        elif not item.init:
            continue
        else:
            default = ""
        if item.init:
            (by_name if item.kw_only else positional).append(name + default)
        if frozen:
            setter = _slot_setter(cls, name)
            scope[f"_set_{name}"] = setter
            body.append(f"_set(self, {name!r}, {value})" if setter is None else f"_set_{name}(self, {value})")
        else:
            body.append(f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    parameters = ", ".join(["self", *positional, *(["*"] if by_name else []), *by_name])
    source = f"def _make({', '.join(scope)}):\n def __init__({parameters}):\n  "
    module = getattr(sys.modules.get(cls.__module__), "__dict__", {})  # where names in annotations are looked up
    made: dict[str, Any] = {}
    exec(source + "\n  ".join(body or ["pass"]) + "\n return __init__", module, made)
    function = made["_make"](**scope)
    function.__qualname__ = f"{cls.__qualname__}.__init__"
    types = {item.name: item.type for item in dataclasses.fields(cls) if item.init}
    function.__annotations__ = types | {"return": None}
    return function


def _slot_setter(cls: type, name: str) -> Any:
    """What sets the slot `name` past a `__setattr__` that refuses, in half the time; None where it is no slot."""
    for base in cls.__mro__:
        if name in vars(base):
            found = vars(base)[name]
            return found.__set__ if isinstance(found, MemberDescriptorType) else None
    return None


def _values_of(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """A function that gives the attributes `names` of an object, as a tuple."""
    if len(names) > 1:
        return attrgetter(*names)
    if names:
        get = attrgetter(*names)
        return lambda self: (get(self),)
    return lambda self: ()


def _give_comparison(cls: type, frozen: bool) -> None:
    compared = [item for item in dataclasses.fields(cls) if item.compare]
    values = _values_of(tuple(item.name for item in compared))

    def __eq__(self: Any, other: Any) -> Any:
        if other.__class__ is self.__class__:
            return values(self) == values(other)
        return NotImplemented

    own_hash = vars(cls).get("__hash__")
    own = own_hash is not None or ("__hash__" in vars(cls) and "__eq__" not in vars(cls))
    _give(cls, __eq__)
    if not frozen and not own:
        cls.__hash__ = None  # type: ignore[assignment]
    elif not own:
        hashed = _values_of(tuple(item.name for item in compared if item.hash is not False))

        def __hash__(self: Any) -> int:
            return hash(hashed(self))

        __hash__.__qualname__ = f"{cls.__qualname__}.__hash__"
        cls.__hash__ = __hash__  # type: ignore[method-assign,assignment]


def _give_order(cls: type) -> None:
    values = _values_of(tuple(item.name for item in dataclasses.fields(cls) if item.compare))

    def compared_by(name: str, compare: Callable[[Any, Any], bool]) -> Any:
        def method(self: Any, other: Any) -> Any:
            return compare(values(self), values(other)) if other.__class__ is self.__class__ else NotImplemented

        method.__name__ = name
        return method

    for name, compare in (("__lt__", lt), ("__le__", le), ("__gt__", gt), ("__ge__", ge)):
        _give(cls, compared_by(name, compare))


def _give_repr(cls: type) -> None:
    names = [item.name for item in dataclasses.fields(cls) if item.repr]

    def __repr__(self: Any) -> str:
        content = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{self.__class__.__qualname__}({content})"

    _give(cls, __repr__)


def _refuse_changes(cls: type, slots: bool) -> None:
    names = frozenset(item.name for item in dataclasses.fields(cls))

    def __setattr__(self: Any, name: str, value: Any) -> None:
        if type(self) is cls or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        super(cls, self).__setattr__(name, value)  # type: ignore[arg-type]

    def __delattr__(self: Any, name: str) -> None:
        if type(self) is cls or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        super(cls, self).__delattr__(name)  # type: ignore[arg-type]

    def __getstate__(self: Any) -> list[Any]:
        return [getattr(self, item.name) for item in dataclasses.fields(self)]

    def __setstate__(self: Any, state: list[Any]) -> None:
        for item, value in zip(dataclasses.fields(self), state, strict=True):
            _set(self, item.name, value)

    _give(cls, __setattr__)
    _give(cls, __delattr__)
    if slots:  # what pickle does with slots by itself would assign to fields
        _give(cls, __getstate__)
        _give(cls, __setstate__)


def _give(cls: type, function: Any) -> None:
    """Add a method, unless the class has one of its own."""
    if function.__name__ not in vars(cls):
        function.__qualname__ = f"{cls.__qualname__}.{function.__name__}"
        type.__setattr__(cls, function.__name__, function)


if not TYPE_CHECKING:

    def dataclass(
        cls: type | None = None,
        /,
        *,
        init: bool = True,
        repr: bool = True,
        eq: bool = True,
        order: bool = False,
        frozen: bool = False,
        slots: bool = False,
    ) -> Any:
        """As `dataclasses.dataclass`."""

        def decorate(cls: type) -> type:
            cls = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(cls)
            if init and "__init__" not in vars(cls):
                type.__setattr__(cls, "__init__", _Init(cls, frozen))
            if repr:
                _give_repr(cls)
            if eq:
                _give_comparison(cls, frozen)
            if order:
                _give_order(cls)
            if frozen:
                _refuse_changes(cls, slots)
            return cls

        return decorate if cls is None else decorate(cls)

"""Closed families of small values: a parent class, and one nested class per variant.

    @variant_of(Shape)
    class _Circle(Shape):
        radius: int

makes `Shape.Circle(3)`: an instance of `Shape`, immutable, comparable, hashable where its content is, picklable, and usable
in `match` statements. The parent itself cannot be instantiated. For type checkers the parent declares
`Circle: TypeAlias = "_Circle"`. A method `_check` sees a new value before anybody else does.

It is what `dataclasses` would make, without its cost at import time.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

V = TypeVar("V", bound="Variants")


class _Signature:
    """`inspect.signature` of a variant, made when somebody asks."""

    def __get__(self, instance: object, owner: type[Variants]) -> Any:
        import inspect

        return inspect.Signature(
            [
                inspect.Parameter(
                    name,
                    inspect.Parameter.POSITIONAL_OR_KEYWORD,
                    default=vars(owner).get(name, inspect.Parameter.empty),
                )
                for name in owner.__match_args__
            ]
        )


class Variants:
    """The parent of such a family."""

    _variant_names: ClassVar[tuple[str, ...]] = ()
    _is_variant: ClassVar[bool] = False
    __match_args__: ClassVar[tuple[str, ...]] = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if not cls._is_variant:
            names = ", ".join(f"{cls.__name__}.{name}" for name in cls._variant_names)
            raise TypeError(f"cannot create '{cls.__name__}' instances, create one of its variants: {names}")
        return super().__new__(cls)

    def _check(self) -> None:
        """Check, and with `_set` convert, what the constructor was given."""

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _values(self) -> tuple[Any, ...]:
        """The content, in order."""
        return tuple(getattr(self, name) for name in self.__match_args__)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"'{type(self).__name__}' objects cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"'{type(self).__name__}' objects cannot be changed")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Variants):
            return NotImplemented
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        content = (tuple(value) if isinstance(value, list) else value for value in self._values())
        return hash((type(self).__qualname__, *content))


@dataclass_transform(frozen_default=True)
def variant_of(family: type[Variants], name: str | None = None) -> Callable[[type[V]], type[V]]:
    """Class decorator: make the class the variant `name` (by default its own without `_`) of `family`."""

    def register(cls: type[V]) -> type[V]:
        public = name or cls.__name__.lstrip("_")
        cls.__name__ = public
        cls.__qualname__ = f"{family.__qualname__}.{public}"
        cls._is_variant = True
        if "__init__" not in vars(cls):
            cls.__match_args__ = tuple(vars(cls).get("__annotations__", ()))  # type: ignore[misc]
            _give_constructor(cls)
        family._variant_names = (*family._variant_names, public)
        setattr(family, public, cls)
        return cls

    return register


def _give_constructor(cls: type[Variants]) -> None:
    names = cls.__match_args__
    defaults = {name: vars(cls)[name] for name in names if name in vars(cls)}

    def __init__(self: Variants, *args: Any, **kwargs: Any) -> None:
        values = dict(zip(names, args, strict=False))
        wrong = len(args) > len(names) or values.keys() & kwargs.keys() or kwargs.keys() - set(names)
        values = defaults | values | kwargs
        if wrong or len(values) < len(names):
            # the arguments may be secrets, so they are not shown
            raise TypeError(f"{cls.__qualname__} takes exactly these arguments: ({', '.join(names)})")
        for name in names:
            self._set(name, values[name])
        self._check()

    cls.__init__ = __init__  # type: ignore[method-assign,assignment]
    cls.__signature__ = _Signature()  # type: ignore[attr-defined]


class Choice(enum.IntEnum):
    """An enumeration that shows itself as `Class.member`, compares with its number, and is true whatever that is."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    def __str__(self) -> str:
        return repr(self)

    def __bool__(self) -> bool:
        return True

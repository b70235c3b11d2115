"""What all configuration classes share: settable attributes that check what they are given.

A `Settings` class lists its attributes once, as `Field`s. From that list come the checks, `==`, `merge`, copies, pickles,
the display, and the stored forms (`stored`). The order of the fields is the order in which they are stored. `None` means
"not set"; a field's default is what then takes effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, overload

from icechunk import checks
from icechunk.display import Card, Plain, Row, Shown, constructor_text

T = TypeVar("T")


class Integer:
    """A whole number of so many bits."""

    __slots__ = ("bits", "non_zero", "signed")

    def __init__(self, bits: int, *, signed: bool = False, non_zero: bool = False) -> None:
        self.bits = bits
        self.signed = signed
        self.non_zero = non_zero

    def check(self, value: Any, name: str) -> int:
        return checks.integer(value, name, bits=self.bits, signed=self.signed, non_zero=self.non_zero)


class Flag:
    """True or false."""

    __slots__ = ()

    def check(self, value: Any, name: str) -> bool:
        return checks.flag(value, name)


class Text:
    """A string."""

    __slots__ = ()

    def check(self, value: Any, name: str) -> str:
        return checks.text(value, name)


class Moment:
    """A point in time, in UTC."""

    __slots__ = ()

    def check(self, value: Any, name: str) -> datetime:
        return checks.moment(value, name)


class Instance:
    """An object of one class. Where `merges`, two of them are merged field by field, else the later one wins whole."""

    __slots__ = ("cls", "merges")

    def __init__(self, cls: type, merges: bool = False) -> None:
        self.cls = cls
        self.merges = merges

    def check(self, value: Any, name: str) -> Any:
        return checks.instance(value, name, self.cls)


class Table:
    """A dict of str to objects of one class."""

    __slots__ = ("cls",)

    def __init__(self, cls: type) -> None:
        self.cls = cls

    def check(self, value: Any, name: str) -> Any:
        return {
            checks.text(key, name): checks.instance(item, name, self.cls)
            for key, item in checks.instance(value, name, dict).items()
        }


Kind = Integer | Flag | Text | Moment | Instance | Table


class Field(property, Generic[T]):
    """One attribute of a `Settings` class: unset (None), or a value that has been checked.

    `required` fields are never unset. `extension` ones are our own: stored only where set, since nobody else knows them.
    """

    key: str

    def __init__(
        self,
        kind: Kind,
        default: Any = None,
        doc: str = "",
        *,
        settable: bool = True,
        required: bool = False,
        extension: bool = False,
    ) -> None:
        super().__init__(self.read, self.write if settable else None, doc=doc)
        self.__doc__ = doc  # Python 3.11 leaves that of the class
        self.kind = kind
        self.default = default
        self.required = required
        self.extension = extension

    def __set_name__(self, owner: type, name: str) -> None:
        self.key = name

    def read(self, settings: Settings) -> Any:
        value = settings._values.get(self.key)
        return _copied(value) if isinstance(self.kind, Table) else value

    def write(self, settings: Settings, value: Any) -> None:
        if value is None and not self.required:
            settings._values.pop(self.key, None)
        else:
            settings._values[self.key] = self.kind.check(value, self.key)

    if TYPE_CHECKING:

        @overload  # type: ignore[override]
        def __get__(self, instance: None, owner: type) -> Self: ...
        @overload
        def __get__(self, instance: Settings, owner: type) -> T: ...
        def __get__(self, instance: Settings | None, owner: type) -> Self | T: ...
        def __set__(self, instance: Settings, value: T) -> None: ...


def u8(default: int | None, doc: str) -> Field[int | None]:
    return Field(Integer(8), default, doc)


def u16(default: int | None, doc: str, *, non_zero: bool = False) -> Field[int | None]:
    return Field(Integer(16, non_zero=non_zero), default, doc)


def u32(default: int | None, doc: str) -> Field[int | None]:
    return Field(Integer(32), default, doc)


def u64(default: int | None, doc: str, *, non_zero: bool = False) -> Field[int | None]:
    return Field(Integer(64, non_zero=non_zero), default, doc)


def i32(default: int | None, doc: str) -> Field[int | None]:
    return Field(Integer(32, signed=True), default, doc)


def flag(default: bool | None, doc: str) -> Field[bool | None]:
    return Field(Flag(), default, doc)


def text(doc: str) -> Field[str | None]:
    return Field(Text(), None, doc)


def section(cls: type[T], doc: str, *, default: T | None = None, merges: bool = False) -> Field[T | None]:
    return Field(Instance(cls, merges), default, doc)


class Settings(Shown):
    """Base of the configuration classes."""

    __slots__ = ("__weakref__", "_values")
    __hash__ = None  # type: ignore[assignment]

    _title: ClassVar[str]
    """The class' name as users write it."""
    _fields: ClassVar[dict[str, Field[Any]]] = {}
    _values: dict[str, Any]

    def __init_subclass__(cls) -> None:
        cls._fields = {name: value for name, value in vars(cls).items() if isinstance(value, Field)}

    def __init__(self, **values: Any) -> None:
        self._values = {}
        for name, value in values.items():
            self._fields[name].write(self, value)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return bool(self._values == other._values)

    def merge(self, other: Self) -> Self:
        """A new object with what `other` sets, and elsewhere what this one sets."""
        checks.instance(other, "other", type(self))
        result = self.__copy__()
        for name, theirs in other.__copy__()._values.items():
            ours = result._values.get(name)
            kind = self._fields[name].kind
            merges = isinstance(kind, Instance) and kind.merges
            result._values[name] = ours.merge(theirs) if merges and ours is not None else theirs
        return result

    def copy(self) -> Self:
        """A copy that shares nothing that can change."""
        return self.__copy__()

    def __copy__(self) -> Self:
        result = type(self).__new__(type(self))
        result._values = {name: _copied(value) for name, value in self._values.items()}
        return result

    def __deepcopy__(self, memo: object) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._values)

    def _ordered(self) -> Iterator[tuple[str, Field[Any]]]:
        """Fields as they are shown: scalars first, then sections, then tables."""
        rank = {Instance: 1, Table: 2}
        shown = ((name, field) for name, field in self._fields.items() if not field.extension or name in self._values)
        return iter(sorted(shown, key=lambda item: rank.get(type(item[1].kind), 0)))

    def _constructor_values(self) -> Iterator[tuple[str, Any]]:
        """What `repr` shows of every argument of the constructor."""
        for name, field in self._ordered():
            if field.fset is not None or isinstance(field.kind, Table):
                yield name, self._values.get(name)

    def __repr__(self) -> str:
        return constructor_text(self._title, self._constructor_values())

    def _card(self) -> Card:
        rows = []
        for name, field in self._ordered():
            value = self._values.get(name)
            if value is None and field.fset is None and not isinstance(field.kind, Table):
                continue  # bookkeeping that there is none of
            if value is not None or field.default is None:
                rows.append(Row(name, value))
            elif isinstance(field.default, Settings):
                rows.append(Row(name, field.default))
            else:
                rows.append(Row(name, field.default, is_default=True))
        return Card(self._title, [Row(row.name, _on_one_line(row.value), row.is_default) for row in rows])


def _on_one_line(value: Any) -> Any:
    """What is neither a number nor a text nor a card shows itself by its `repr`."""
    return value if value is None or isinstance(value, str | int | Shown | dict) else Plain(repr(value))


def _copied(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.__copy__()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return value


def _restore(cls: type[Settings], values: dict[str, Any]) -> Settings:
    """Unpickle; what a newer version knew and this one does not is left out."""
    result = cls.__new__(cls)
    result._values = {name: value for name, value in values.items() if name in cls._fields}
    return result

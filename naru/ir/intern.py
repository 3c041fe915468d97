"""Hash-consing: same fields, same object. So equality is `is`, and CSE is free."""

from __future__ import annotations

import struct
import weakref
from dataclasses import dataclass, fields
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


class _Ref(weakref.ref[Any]):
    """A weak reference that remembers the key of its entry."""

    __slots__ = ("key",)
    key: tuple[Any, ...]


_table: dict[tuple[Any, ...], _Ref] = {}
# Keys of dead nodes. They are removed at the next construction and not inside the callback:
# a removal frees children, and a long chain would recurse once a node.
_dead: list[_Ref] = []


def sweep() -> None:
    """Lets go of dead nodes, and with them of their constants, now: else the next new node does."""
    while _dead:
        ref = _dead.pop()
        if _table.get(ref.key) is ref:
            del _table[ref.key]
        del ref  # holds the key, and so the children, whose turn is next


def _identity(value: Any) -> Any:
    """What of a field takes part in the key. Types are kept apart (1, 1.0 and True are three
    values) and floats compare by their bits (-0.0 is not 0.0, a NaN is itself)."""
    kind: Any = value.__class__
    if kind is float:
        return (float, struct.pack("<d", value))
    if kind is int or kind is bool:
        return (kind, value)
    if kind is tuple:
        return tuple(map(_identity, value))
    return value


def _field_count(cls: Any) -> int:
    return len(cls.__match_args__)


class Interned(type):
    """Metaclass: calling the class returns the one object with these fields."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) < _field_count(cls):
            args = cls._all_fields(args, kwargs)
        if _dead:
            sweep()
        key = (cls, *map(_identity, args))
        ref = _table.get(key)
        if ref is not None:
            found = ref()
            if found is not None:
                return found
        made = super().__call__(*args)
        ref = _Ref(made, _dead.append)
        ref.key = key
        _table[key] = ref
        return made

    def _all_fields(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        values = list(args)
        missing = [f for f in fields(cls) if f.init][len(args) :]  # pyright: ignore[reportArgumentType]
        values += [kwargs.pop(f.name) if f.name in kwargs else f.default for f in missing]
        if kwargs:
            raise TypeError(f"{cls.__name__}: unknown fields {sorted(kwargs)}")
        return tuple(values)


def _reduce(self: Any) -> Any:
    """Pickle and deepcopy through the constructor, so that no twin appears."""
    return type(self), tuple(getattr(self, f.name) for f in fields(self) if f.init)


@dataclass_transform(frozen_default=True, eq_default=False)
def node(cls: type[T]) -> type[T]:
    """Frozen, slotted dataclass whose class must have `metaclass=Interned`."""
    made = dataclass(frozen=True, eq=False, slots=True, weakref_slot=True, repr=False)(cls)
    made.__reduce__ = _reduce  # type: ignore[method-assign]
    return made

"""Pickles read as plain data: nothing that a pickle names is ever imported, called or built.

A pickle is a program for a small machine (Python's :mod:`pickletools` describes it): it pushes numbers, texts and
containers, names objects of Python, and asks to call them. Here the naming and the calling are only written down, as
:class:`Name` and :class:`Made`; so whatever the program says, it makes nothing but these, numbers, texts and
containers. What was written down is then read: arrays by :func:`array`, the rest by whoever knows what it should be.
"""

from __future__ import annotations

import pickletools
import re
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from bids_brainage.core.archive import read_member
from bids_brainage.core.errors import UsageError

LARGEST = 512 << 20
MOST_STEPS = 2_000_000
ELEMENTS = 10_000_000
DIMENSIONS = 4
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
VALUES = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)
ARRAY = {
    (module, name)
    for core in ("numpy.core", "numpy._core")
    for module, name in ((f"{core}.multiarray", "_reconstruct"), (f"{core}.multiarray", "scalar"))
} | {("numpy", "ndarray"), ("numpy", "dtype")}
KIND = re.compile("[iu][1248]|f[248]|b1|U[0-9]{1,4}")


class NotPlainError(ValueError):
    """A pickle that holds more than is admitted, or is damaged."""


@dataclass(frozen=True, eq=False)
class Name:
    """An object of Python that a pickle names: its name, and nothing else of it."""

    module: str
    name: str

    @property
    def pair(self) -> tuple[str, str]:
        """Module and name."""
        return self.module, self.name


@dataclass(eq=False, repr=False)
class Made:
    """What a pickle would have built by calling ``maker`` with ``arguments``, and the ``state`` given to it."""

    maker: Name
    arguments: tuple[Any, ...]
    state: Any = None


class Reader:
    """The machine that writes down.

    Parameters
    ----------
    admitted : collection of (str, str)
        Modules and names that a pickle may name; any other is refused where it is named.
    """

    def __init__(self, admitted: Collection[tuple[str, str]]) -> None:
        self.admitted = admitted
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.acts: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys(VALUES, self._push),
            **{code: partial(self._constant, value) for code, value in CONSTANTS.items()},
            **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda _: None),
            **dict.fromkeys(("BINPUT", "LONG_BINPUT"), self._remember),
            **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda key: self._push(self.memo[key])),
            **{f"TUPLE{n}": partial(self._tuple, n) for n in (1, 2, 3)},
            "MEMOIZE": lambda _: self._remember(len(self.memo)),
            "MARK": lambda _: self.marks.append(len(self.stack)),
            "EMPTY_LIST": lambda _: self._push([]),
            "EMPTY_DICT": lambda _: self._push({}),
            "TUPLE": lambda _: self._push(tuple(self._marked())),
            "APPEND": lambda _: self._extend(self._top(1)),
            "APPENDS": lambda _: self._extend(self._marked()),
            "SETITEM": lambda _: self._fill(self._top(2)),
            "SETITEMS": lambda _: self._fill(self._marked()),
            "GLOBAL": lambda text: self._name(*text.split(" ", 1)),
            "STACK_GLOBAL": lambda _: self._name(*self._top(2)),
            "REDUCE": lambda _: self._make(*self._top(2)),
            "NEWOBJ": lambda _: self._make(*self._top(2)),
            "BUILD": lambda _: self._state(*self._top(1)),
        }

    def read(self, content: bytes) -> Any:
        """What one pickle holds.

        Raises
        ------
        NotPlainError
            Where it names or does what is not admitted, is damaged, or is too long.
        """
        try:
            for step, (opcode, argument, _) in enumerate(pickletools.genops(content)):
                if step >= MOST_STEPS:
                    raise NotPlainError(f"takes more than {MOST_STEPS} steps")
                if opcode.name not in self.acts:
                    raise NotPlainError(f"asks for {opcode.name}")
                self.acts[opcode.name](argument)
            (found,) = self.stack
        except (ValueError, LookupError, TypeError, struct.error) as error:
            raise error if isinstance(error, NotPlainError) else NotPlainError("is damaged") from None
        return found

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _constant(self, value: Any, _: Any) -> None:
        self._push(value)

    def _tuple(self, n: int, _: Any) -> None:
        self._push(tuple(self._top(n)))

    def _top(self, n: int) -> list[Any]:
        """The last ``n`` values since the last mark, taken off."""
        place = len(self.stack) - n
        if place < (self.marks[-1] if self.marks else 0):
            raise NotPlainError("is damaged")
        return self._from(place)

    def _marked(self) -> list[Any]:
        """All values since the last mark, which is taken off too."""
        return self._from(self.marks.pop())

    def _from(self, place: int) -> list[Any]:
        taken = self.stack[place:]
        del self.stack[place:]
        return taken

    def _last(self, kind: type) -> Any:
        """The value on top, which must be of a kind and stays."""
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise NotPlainError("is damaged")
        return self.stack[-1]

    def _remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def _extend(self, values: list[Any]) -> None:
        self._last(list).extend(values)

    def _fill(self, values: list[Any]) -> None:
        if len(values) % 2 or not all(isinstance(key, str) for key in values[::2]):
            raise NotPlainError("has a dictionary whose keys are no texts")
        self._last(dict).update(zip(values[::2], values[1::2], strict=True))

    def _name(self, module: str, name: str) -> None:
        if (module, name) not in self.admitted:
            raise NotPlainError(f"names {f'{module}.{name}'[:80]!r}")
        self._push(Name(module, name))

    def _make(self, maker: Any, arguments: Any) -> None:
        if not isinstance(maker, Name) or not isinstance(arguments, tuple):
            raise NotPlainError("calls what is no admitted name")
        self._push(Made(maker, arguments))

    def _state(self, state: Any) -> None:
        made = self._last(Made)
        if made.state is not None:
            raise NotPlainError("gives an object its state twice")
        made.state = state


def pickled(path: Path, key: str, admitted: Collection[tuple[str, str]]) -> Any:
    """What ``numpy.savez(path, key=value)`` pickled, as plain data.

    Parameters
    ----------
    path : Path
        ``.npz``; 512 MiB a member at most.
    key : str
        Name of the array, which holds one object.
    admitted : collection of (str, str)
        As for :class:`Reader`, arrays of numpy besides.

    Raises
    ------
    UsageError
        Where it cannot be read, holds no such object, or more than is admitted.
    """
    content = BytesIO(read_member(path, f"{key}.npy", largest=LARGEST))
    try:
        header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(content)]
        shape, _, dtype = header(content)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: {key!r} is no array of numpy ({type(error).__name__}); get the file again") from None
    if shape != () or not dtype.hasobject:
        raise UsageError(f"{path}: {key!r} is a plain array and holds no object; give a released file")
    try:
        return array(Reader(ARRAY | set(admitted)).read(content.read()))[()]
    except NotPlainError as error:
        raise UsageError(f"{path}: the pickle in {key!r} {error}; nothing in it was run, and it is refused") from None


def array(value: Any) -> NDArray[Any]:
    """An array that a pickle holds: of numbers or texts, or of whatever else as objects.

    Raises
    ------
    NotPlainError
        Where it is none, or its bytes are not as many as its shape asks for.
    """
    if not isinstance(value, Made) or value.maker.name != "_reconstruct" or not isinstance(value.state, tuple):
        raise NotPlainError("has something else where an array is expected")
    if len(value.state) != 5:
        raise NotPlainError("has a damaged array")
    _, shape, kind, by_columns, content = value.state
    if not isinstance(shape, tuple) or len(shape) > DIMENSIONS or any(type(n) is not int or n < 0 for n in shape):
        raise NotPlainError("has an array of an impossible shape")
    dtype, size = _dtype(kind), prod(shape)
    order: Literal["C", "F"] = "F" if by_columns else "C"
    if dtype.hasobject:
        return _objects(content, size).reshape(shape, order=order)
    if not isinstance(content, bytes) or len(content) != size * dtype.itemsize:
        raise NotPlainError("has an array whose bytes do not fit its shape")
    return np.frombuffer(content, dtype).reshape(shape, order=order).astype(dtype.newbyteorder("="))


def number(value: Any) -> float:
    """A number that a pickle holds, of Python or numpy.

    Raises
    ------
    NotPlainError
        Where it is none.
    """
    if isinstance(value, Made) and value.maker.name == "scalar" and len(value.arguments) == 2:
        kind, content = value.arguments
        dtype = _dtype(kind)
        if dtype.kind in "fiu" and isinstance(content, bytes) and len(content) == dtype.itemsize:
            return float(np.frombuffer(content, dtype)[0])
    if type(value) not in (int, float):
        raise NotPlainError("has something else where a number is expected")
    return float(value)


def _objects(content: Any, size: int) -> NDArray[Any]:
    if not isinstance(content, list) or len(content) != size:
        raise NotPlainError("has an array whose objects do not fit its shape")
    found = np.empty(size, dtype=object)
    for place, value in enumerate(content):
        found[place] = value
    return found


def _dtype(value: Any) -> np.dtype[Any]:
    """A type of plain numbers, texts or objects; records and dates are refused."""
    if isinstance(value, Made) and value.maker.pair == ("numpy", "dtype") and isinstance(value.state, tuple):
        code, order = value.arguments[:1], value.state[1:2]
        if code == ("O8",):
            return np.dtype(object)
        if (
            len(code) == 1
            and isinstance(code[0], str)
            and KIND.fullmatch(code[0])
            and order in (("<",), (">",), ("|",))
        ):
            return np.dtype(f"{order[0]}{code[0]}")
    raise NotPlainError("has an array of a type that is not admitted")

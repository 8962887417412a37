"""Which people the bias correction is fitted on: a query over their columns, checked before it is evaluated."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from bids_brainage.core.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

METHODS = frozenset({"isin", "isna", "isnull", "notna", "notnull", "between"})
TOKEN = re.compile(r"'[^']*'|\"[^\"]*\"|`([^`]*)`")
ALLOWED = (
    *(ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.Invert, ast.USub, ast.UAdd),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Mod, ast.FloorDiv, ast.BitAnd, ast.BitOr),
    *(ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn),
    *(ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple, ast.Call, ast.Attribute),
)


def choose_controls(people: pd.DataFrame, query: str | None) -> NDArray[np.bool_]:
    """Rows that a pandas query chooses; all where there is no query.

    Parameters
    ----------
    people : pandas.DataFrame
        One row a person (session, model), with all columns that the query may name.
    query : str, optional
        Comparisons of columns, ``and``, ``or``, ``not``, ``in``, arithmetic, and the methods in :data:`METHODS`. A
        column whose name is no plain word is written in backticks. With a missing value ``!=`` and ``not in`` are true
        and all else is false, as in pandas.

    Returns
    -------
    array of bool, shape (n,)

    Raises
    ------
    UsageError
        Where the query is malformed, asks for more than this, names a column that is not there, or chooses nobody.
    """
    if query is None or not query.strip():
        return np.ones(len(people), dtype=bool)
    plain, named = _checked(query, people)
    try:
        answer = people.rename(columns=named)[list(named.values())].eval(plain, engine="python", parser="pandas")
        chosen = np.asarray(answer)
    except Exception as error:  # noqa: BLE001  (pandas raises nearly any kind)
        raise UsageError(f"--controls {query!r}: cannot be evaluated ({_one_line(error)}); correct it") from None
    if chosen.shape != (len(people),) or any(type(value) not in (bool, np.bool_) for value in set(chosen.tolist())):
        raise UsageError(
            f"--controls {query!r}: is not a condition on each person; compare columns, e.g. \"diagnosis == 'CN'\""
        )
    if not chosen.any():
        raise UsageError(f"--controls {query!r}: chooses nobody; {_values(people, named)}")
    return chosen.astype(bool)


def _checked(query: str, people: pd.DataFrame) -> tuple[str, dict[str, str]]:
    """The query with plain names for its columns, and those names by column; refuses all but conditions on columns."""
    quoted: dict[str, str] = {}

    def plain_name(match: re.Match[str]) -> str:
        if match.group(1) is None:
            return match.group(0)
        return quoted.setdefault(match.group(1), f"quoted_column_{len(quoted)}")

    plain = TOKEN.sub(plain_name, query.strip())
    try:
        tree = ast.parse(plain, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"--controls {query!r}: is no valid query ({_one_line(error)}); correct it") from None
    original = {alias: name for name, alias in quoted.items()}
    named: dict[str, str] = {}
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        _check_node(node, query, called)
        if isinstance(node, ast.Name):
            name = original.get(node.id, node.id)
            if name not in people.columns:
                raise UsageError(
                    f"--controls {query!r}: there is no column {name!r}; there are {', '.join(people.columns)}"
                )
            named[name] = node.id
    if not named:
        raise UsageError(f"--controls {query!r}: names no column; there are {', '.join(people.columns)}")
    return plain, named


def _check_node(node: ast.AST, query: str, called: set[int]) -> None:
    allowed = isinstance(node, ALLOWED)
    if isinstance(node, ast.Call):
        allowed = isinstance(node.func, ast.Attribute) and not node.keywords
    elif isinstance(node, ast.Attribute):
        allowed = node.attr in METHODS and isinstance(node.value, ast.Name) and id(node) in called
    elif isinstance(node, ast.Name):
        allowed = not node.id.startswith("__")
    if not allowed:
        what = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
        known = ", ".join(sorted(METHODS))
        raise UsageError(f"--controls {query!r}: {what!r} is not allowed; use comparisons, and, or, not, in, {known}")


def _values(people: pd.DataFrame, named: dict[str, str]) -> str:
    """What the named columns hold, so that the mistake shows."""
    shown = []
    for name in named:
        values = sorted({str(value) for value in people[name].dropna()})
        some = ", ".join(values[:6]) + (", ..." if len(values) > 6 else "")
        shown.append(f"{name} holds {some or 'no value'}")
    return "; ".join(shown)


def _one_line(error: BaseException) -> Any:
    return " ".join(str(error).split())[:160] or type(error).__name__

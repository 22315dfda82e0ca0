"""Print a value so that equal answers look equal: the one line that a check cell gives away."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Set

import numpy as np

LONGEST = 1_000_000  # characters of one shown value; a longer one is an answer gone wrong
DEEPEST = 50


def show(value):
    """Show `value` as one line of canonical JSON.

    NumPy scalars and arrays, tuples (NamedTuples too), ranges and other iterables become lists, a set a sorted list,
    a dataclass a mapping, bytes their hexadecimal digits; mappings are sorted by key, floats stay as they are. In a
    notebook the line is a display of its own, so that a `print` left in a function does not mix with it. Raises
    TypeError for a value that has no such form, ValueError for one above a million characters or 50 levels.

    >>> show({"rate": np.float64(0.5), "pages": (1, np.int64(2))})
    {"pages": [1, 2], "rate": 0.5}
    """
    publish(canonical(value))


def canonical(value) -> str:
    """Return `value` as canonical JSON text.

    >>> canonical({3, 1, 2})
    '[1, 2, 3]'
    """
    text = json.dumps(_plain(value, DEEPEST), ensure_ascii=False)
    if len(text) > LONGEST:
        raise ValueError(f"a shown value has {len(text)} characters; at most {LONGEST} are allowed")
    return text


def publish(line: str):
    """Display `line` in a notebook, print it elsewhere; the grader's own kernel puts its channel here."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        print(line)
        return
    if getattr(get_ipython(), "kernel", None) is not None:
        display({"text/plain": line}, raw=True)
    else:
        print(line)


def _plain(value, depth):
    """Return `value` made of None, bool, int, float, str, list and dict only."""
    if depth == 0:
        raise ValueError(f"a shown value may be nested {DEEPEST} deep")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist(), depth - 1)
    for kind in (int, float, str):  # an IntEnum or the like: what it is worth, not how it prints
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), depth - 1) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        plain = {k if isinstance(k, str) else canonical(k): _plain(v, depth - 1) for k, v in value.items()}
        if len(plain) < len(value):
            raise ValueError("a shown mapping has two keys that print alike, such as 1 and '1'")
        return dict(sorted(plain.items()))
    if isinstance(value, Set):
        return sorted((_plain(item, depth - 1) for item in value), key=_numbers_first)
    if isinstance(value, Iterable):
        return [_plain(item, depth - 1) for item in value]
    raise TypeError(f"show() has no form for a {type(value).__name__}; return numbers, text, lists or mappings")


def _numbers_first(item):
    number = isinstance(item, (int, float))
    return (not number, item if number else 0, "" if number else json.dumps(item))

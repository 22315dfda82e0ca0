"""The arithmetic of assembly text: numbers, labels, and in an address registers times a factor."""

import ast
import operator
from typing import NamedTuple

from vlib.x86.decoder import REGISTERS, SEGMENTS, Reg

NAMES = {name: Reg("r", i, size) for size, names in REGISTERS.items() for i, name in enumerate(names)}
NAMES |= {name: Reg("s", i, 2) for i, name in enumerate(SEGMENTS)}
NAMES |= {f"{kind}r{i}": Reg(kind, i, 4) for kind in "cd" for i in range(8)}
_OPERATORS = {
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}


class Sum(NamedTuple):
    """A constant plus registers times factors; `label` says that the constant may still move."""

    constant: int
    registers: tuple = ()  # (name, factor), in the order of the text
    label: bool = False


def evaluate(text: str, names: dict) -> Sum:
    """Evaluate an expression; `names` has a `Sum` for each label and constant, HERE__ for `$`.

    >>> evaluate("table + ecx*4 + 2 * (3 - 1)", {"table": Sum(100)})
    Sum(constant=104, registers=(('ecx', 4),), label=False)
    >>> evaluate("1 +", {})
    Traceback (most recent call last):
    ValueError: bad expression '1 +'
    """

    def value(node) -> Sum:
        match node:
            case ast.Constant(value=int(number)) if not isinstance(number, bool):
                return Sum(number)
            case ast.Constant(value=str(char)) if len(char) == 1:
                return Sum(ord(char))
            case ast.Name(id=name):
                if name.lower() in NAMES:
                    return Sum(0, ((name.lower(), 1),))
                if name not in names:
                    raise ValueError(f"unknown name {'$' if name == 'HERE__' else name!r}")
                return names[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return value(ast.BinOp(ast.Constant(0), ast.Sub(), operand))
            case ast.UnaryOp(op=ast.Invert(), operand=operand) if not value(operand).registers:
                return Sum(~value(operand).constant)
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
                a, b = value(left), value(right)
                sign = 1 if isinstance(op, ast.Add) else -1
                moved = tuple((name, sign * factor) for name, factor in b.registers)
                # The distance between two labels is an address no longer, but it can still grow with a jump between.
                return Sum(a.constant + sign * b.constant, a.registers + moved, a.label or b.label)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                a, b = value(left), value(right)
                if isinstance(op, ast.Mult) and (a.registers or b.registers):
                    a, b = (a, b) if a.registers else (b, a)
                    if not b.registers and not a.constant:
                        return Sum(0, tuple((name, factor * b.constant) for name, factor in a.registers))
                elif not a.registers and not b.registers and (not isinstance(op, ast.LShift) or b.constant < 64):
                    return Sum(_OPERATORS[type(op)](a.constant, b.constant), (), a.label or b.label)
        raise ValueError(f"bad expression {text.replace('HERE__', '$')!r}")

    try:
        tree = ast.parse(text.strip().replace("$", "HERE__"), mode="eval").body
    except (SyntaxError, ValueError):
        raise ValueError(f"bad expression {text!r}") from None
    try:
        return value(tree)
    except (ZeroDivisionError, OverflowError, RecursionError):
        raise ValueError(f"bad expression {text!r}") from None

"""Assembly text in, bytes out: Intel syntax, one statement a line, the encodings of `table`.

A line is `label:`, `name equ expression`, a directive (`db`, `dw`, `dd`, `org`, `align`, `space`) or an instruction; a
comment begins with `;`. Expressions have numbers, 'c' for a character, labels, `$` for the place of the line, and
+ - * // << >> & | ~ and parentheses. Of several encodings the shortest is taken; a jump is short where that reaches.
Far calls and jumps are `callf` and `jmpf` with `selector:offset` or a place in memory.
"""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from vlib.x86.decoder import EBP, ESP, REGISTERS, SEGMENTS, Reg, default_segment
from vlib.x86.expression import NAMES, Sum, evaluate
from vlib.x86.table import CONDITIONS, ENCODINGS, SYNONYMS

_SIZES = {"byte": 1, "word": 2, "dword": 4}
_DEFAULT_DWORD = ("push", "pop", "call", "jmp", "nop")
_FIXED = {"AL": "al", "CL": "cl", "DX": "dx"} | {s.upper(): s for s in SEGMENTS}
_PREFIXES = {"lock": b"\xf0", "rep": b"\xf3", "repe": b"\xf3", "repne": b"\xf2"}
_OVERRIDES = (b"\x26", b"\x2e", b"\x36", b"\x3e", b"\x64", b"\x65")
_BY_NAME = {}
for _encoding in ENCODINGS:
    _BY_NAME.setdefault(_encoding.mnemonic.split("_")[0], []).append(_encoding)
for _stem in ("j", "cmov", "set"):
    _BY_NAME |= {_stem + new: _BY_NAME[_stem + old] for new, old in SYNONYMS.items()}
_BY_NAME |= {"iret": _BY_NAME["iretd"], "pushf": _BY_NAME["pushfd"], "popf": _BY_NAME["popfd"], "sal": _BY_NAME["shl"]}
_JUMPS = {"jmp", "call", "loop", "loope", "loopne", "jecxz"} | {"j" + c for c in (*CONDITIONS, *SYNONYMS)}


class _No(Exception):
    """An encoding that does not fit these operands."""


class _Place(NamedTuple):
    """A memory operand as written: size 0 if not said, segment -1 if not said."""

    sum: Sum
    size: int
    segment: int


class _FarPlace(NamedTuple):
    selector: Sum
    offset: Sum


@dataclass(frozen=True)
class Program:
    """Assembled bytes, where they belong, and what was said where."""

    code: bytes
    origin: int
    labels: dict[str, int] = field(repr=False)
    lines: dict[int, tuple[int, str]] = field(repr=False)  # address -> line number and text

    def where(self, address: int) -> str:
        """Return the line that an address belongs to, for messages."""
        places = [a for a in self.lines if a <= address < self.origin + len(self.code)]
        if not places:
            return f"{address:#x}, outside the program"
        number, text = self.lines[max(places)]
        return f"line {number}: {text}"


def _operand(text: str, names: dict):
    lower = text.lower()
    if lower in NAMES:
        return NAMES[lower]
    if match := re.fullmatch(r"(?:(byte|word|dword)\s+)?(?:ptr\s+)?(?:([c-gs]s)\s*:\s*)?\[(.*)\]", text, re.IGNORECASE):
        size, segment, inside = match.groups()
        sum_ = evaluate(inside, names)
        return _Place(sum_, _SIZES.get((size or "").lower(), 0), SEGMENTS.index(segment.lower()) if segment else -1)
    if ":" in text:
        selector, offset = (evaluate(part, names) for part in text.split(":", 1))
        return _FarPlace(selector, offset)
    sum_ = evaluate(text, names)
    if sum_.registers:
        raise ValueError(f"bad operand {text!r}")
    return sum_


def _number(sum_: Sum, size: int, low: int | None = None, high: int | None = None) -> bytes:
    bits = 8 * size
    low, high = -(1 << bits - 1) if low is None else low, (1 << bits) - 1 if high is None else high
    if (sum_.label and size < 4) or not low <= sum_.constant <= high:
        raise _No(f"{sum_.constant:#x} does not fit {size} bytes")
    return (sum_.constant & (1 << bits) - 1).to_bytes(size, "little")


def _modrm(place: _Place, reg: int) -> tuple[bytes, bytes]:
    """Return the segment prefix, and ModRM, SIB and displacement of a memory operand."""
    base, index, scale = -1, -1, 1
    registers = [(r.number, factor) for name, factor in place.sum.registers for r in [NAMES[name]] if r.size == 4]
    if len(registers) != len(place.sum.registers) or len(registers) > 2:
        raise ValueError("an address has at most two 32-bit registers")
    for number, factor in registers:
        if factor == 1 and base < 0:
            base = number
        elif index < 0 and factor in (1, 2, 4, 8):
            index, scale = number, factor
        else:
            raise ValueError("an address is base + index * 1, 2, 4 or 8 + displacement")
    if index == ESP:
        base, index = index, base
        if scale != 1 or index == ESP:
            raise ValueError("esp cannot be an index")
    number, label = place.sum.constant, place.sum.label
    if not -(1 << 31) <= number < 1 << 32:
        raise ValueError(f"displacement {number:#x} does not fit 32 bits")
    signed = (number + (1 << 31)) % (1 << 32) - (1 << 31)
    if base < 0:
        mod, size = 0, 4
    elif signed == 0 and not label and base != EBP:
        mod, size = 0, 0
    elif -128 <= signed < 128 and not label:
        mod, size = 1, 1
    else:
        mod, size = 2, 4
    rm = 4 if index >= 0 or base == ESP else 5 if base < 0 else base
    code = bytes([mod << 6 | reg << 3 | rm])
    if rm == 4:
        code += bytes([(scale.bit_length() - 1) << 6 | (index if index >= 0 else 4) << 3 | (base if base >= 0 else 5)])
    override = _OVERRIDES[place.segment] if place.segment not in (-1, default_segment(base)) else b""
    return override, code + (signed & (1 << 8 * size) - 1).to_bytes(size, "little")


def _try(encoding, operands, size: int, here: int) -> tuple[bytes, int]:
    """Encode with an operand size of 2 or 4; return the bytes, and the size that memory of no said size was given."""
    opcode, reg, place, tail, guessed, wide = (
        bytearray(encoding.opcode),
        max(encoding.extension, 0),
        None,
        b"",
        0,
        False,
    )
    for letter, operand in zip(encoding.operands, operands, strict=True):
        kind, width = letter[0], {"b": 1, "w": 2, "d": 4, "p": 6}.get(letter[1:], size)
        wide = wide or ((letter[1:] in ("v", "s") or letter == "eAX") and not isinstance(operand, Sum))
        if letter in _FIXED or letter == "eAX":
            if operand != NAMES[_FIXED.get(letter, REGISTERS[size][0])]:
                raise _No
        elif letter == "1":
            if operand != Sum(1):
                raise _No
        elif kind in "EMO" and isinstance(operand, _Place):
            width = 2 if letter == "Es" else width
            if kind != "M" and operand.size not in (0, width) and width != 6:
                raise _No
            guessed = guessed or (0 if operand.size or kind == "M" else width)
            if kind == "O" and operand.sum.registers:
                raise _No
            place = operand
            if kind == "O":
                tail += _number(operand.sum, 4)
        elif kind in "EGRZ" and isinstance(operand, Reg) and operand.kind == "r":
            if operand.size != (4 if kind == "R" else width):
                raise _No
            if kind == "Z":
                opcode[-1] += operand.number
            elif kind == "G":
                reg = operand.number
            else:
                place = operand
        elif kind in "SCD" and isinstance(operand, Reg) and operand.kind == kind.lower():
            reg = operand.number
        elif kind == "I" and isinstance(operand, Sum):
            if letter == "Is":
                top = 1 << 8 * size
                if not operand.label and top - 128 <= operand.constant < top:
                    operand = Sum(operand.constant - top)
                tail += _number(operand, 1, high=127)
            else:
                tail += _number(operand, width)
        elif kind == "J" and isinstance(operand, Sum) and size == 4:
            length = len(opcode) + width
            tail += _number(
                Sum(operand.constant - here - length), width, high=(1 << 8 * width - 1) - 1 if width == 1 else None
            )
        elif kind == "A" and isinstance(operand, _FarPlace) and size == 4:
            tail += _number(operand.offset, 4) + _number(operand.selector, 2)
        else:
            raise _No
    override = b""
    if isinstance(place, _Place) and "O" not in encoding.operands[0][0] + encoding.operands[-1][0]:
        override, code = _modrm(place, reg)
        opcode += code
    elif isinstance(place, _Place):
        override = _OVERRIDES[place.segment] if place.segment not in (-1, 3) else b""
    elif encoding.modrm:
        opcode.append(0xC0 | reg << 3 | (place.number if place else 0))
    if size == 2 and not wide:  # a number alone never makes an instruction a 16-bit one
        raise _No
    prefix = b"\x66" if size == 2 else b""
    return override + prefix + bytes(opcode) + tail, guessed


def _encode(name: str, operands, here: int, longest: bool) -> bytes:
    """Return the shortest encoding of one instruction; of a jump, the longest if asked."""
    found = []
    orders = [operands, operands[::-1]] if name in ("xchg", "test") else [operands]  # these two do not mind
    for encoding in _BY_NAME[name]:
        if len(encoding.operands) == len(operands):
            for size in (4, 2):
                for order in orders:
                    try:
                        found.append(_try(encoding, order, size, here))
                    except _No:
                        continue
    if not found:
        raise ValueError(f"bad operands for {name}")
    if len({guessed for _, guessed in found}) > 1:
        if name not in _DEFAULT_DWORD:
            raise ValueError("say byte ptr, word ptr or dword ptr")
        found = [(code, guessed) for code, guessed in found if guessed in (0, 4)]
    return (max if longest else min)((code for code, _ in found), key=len)


def _split(text: str) -> list[str]:
    """Split at commas outside of quotes and brackets."""
    return [part.strip() for part in re.findall(r"""(?:[^,"'\[(]|"[^"]*"|'[^']*'|\[[^\]]*\]|\([^)]*\))+""", text)]


def _strip(line: str) -> str:
    """Cut off the comment: what follows a semicolon that is in no quotes."""
    end = re.match(r"""(?:[^;"']|"[^"]*"|'[^']*')*""", line).end()
    return (line[:end] if line[end : end + 1] == ";" else line).strip()


class _Assembly:
    """One pass after another over the same lines, until no label moves."""

    def __init__(self, text: str, origin: int, size: int):
        self.lines = [(n, _strip(line)) for n, line in enumerate(text.splitlines(), 1)]
        self.origin, self.size, self.labels, self.long = origin, size, {}, set()

    def run(self) -> Program:
        self._pass(first=True)
        while True:
            before = dict(self.labels)
            code, lines = self._pass(first=False)
            if self.labels == before:
                self._check_jumps(self.origin + len(code))
                return Program(bytes(code), self.origin, before, lines)

    def _pass(self, first: bool):
        code, lines, seen, self.jumps = bytearray(), {}, set(), []
        constants = {}
        for number, line in self.lines:
            text = line
            try:
                here = self.origin + len(code)
                while match := re.match(r"([A-Za-z_.]\w*)\s*:(?!\s*\[)\s*", text):
                    label, text = match[1], text[match.end() :]
                    self._define(label, seen)
                    self.labels[label] = here
                names = (
                    {k: Sum(v, (), True) for k, v in self.labels.items()} | constants | {"HERE__": Sum(here, (), True)}
                )
                if match := re.fullmatch(r"([A-Za-z_]\w*)\s+equ\s+(.*)", text, re.IGNORECASE):
                    self._define(match[1], seen)
                    constants[match[1]] = evaluate(match[2], names)
                elif text:
                    lines[here] = (number, text)
                    code += self._statement(number, text, names, here, first)
                if len(code) > self.size:
                    raise ValueError(f"program larger than {self.size} bytes")
            except ValueError as error:
                raise ValueError(f"line {number}: {error}: {line}") from None
        return code, lines

    def _check_jumps(self, end: int):
        for number, line, target in self.jumps:
            if not self.origin <= target <= end:
                places = f"{self.origin:#x} to {end:#x}"
                raise ValueError(f"line {number}: jump to {target:#x}, outside of the program, {places}: {line}")

    def _define(self, name: str, seen: set):
        if name.lower() in NAMES:
            raise ValueError(f"{name!r} is a register")
        if name in seen:
            raise ValueError(f"{name!r} is defined twice")
        seen.add(name)

    def _statement(self, number: int, text: str, names: dict, here: int, first: bool) -> bytes:
        name, _, rest = text.partition(" ")
        name, parts = name.lower(), _split(rest)
        if first:  # labels further on are not known yet: any place will do
            names = _Anything(names, here)
        if name in ("db", "dw", "dd"):
            return b"".join(self._datum(part, {"db": 1, "dw": 2, "dd": 4}[name], names) for part in parts)
        if name in ("org", "align", "space"):
            value = evaluate(rest, names).constant
            gap = {"org": value - here, "align": -here % max(value, 1), "space": value}[name]
            if gap < 0:
                raise ValueError(f"{name} leaves {gap} bytes, allowed: 0 or more")
            return bytes(min(gap, self.size + 1))
        prefix = b""
        while name in _PREFIXES:
            prefix += _PREFIXES[name]
            name, _, rest = rest.strip().partition(" ")
            name, parts = name.lower(), _split(rest)
        if name not in _BY_NAME:
            raise ValueError(f"unknown mnemonic {name!r}")
        operands = [_operand(part, names) for part in parts]
        if name not in _JUMPS or isinstance(operands[0] if operands else None, (_Place, Reg)):
            return prefix + _encode(name, operands, here, longest=False)
        try:
            code = _encode(name, operands, here, longest=number in self.long)
        except ValueError:
            if name in ("loop", "loope", "loopne", "jecxz") and len(operands) == 1:
                raise ValueError(f"jump of {operands[0].constant - here} bytes, allowed: about 127") from None
            raise
        if isinstance(operands[0], Sum):
            self.jumps.append((number, text, operands[0].constant))
        if not first and len(code) > 2:
            self.long.add(number)  # once long, always long: so the passes end
        return prefix + code

    def _datum(self, part: str, size: int, names: dict) -> bytes:
        if len(part) > 1 and part[0] == part[-1] and part[0] in "\"'" and size == 1:
            return part[1:-1].encode("latin-1")
        try:
            return _number(evaluate(part, names), size)
        except _No as error:
            raise ValueError(error) from None


class _Anything(dict):
    """Names of which the unknown ones are taken to be labels near here."""

    def __init__(self, names, here):
        super().__init__(names)
        self.here = here

    def __contains__(self, name):
        return True

    def __missing__(self, name):
        return Sum(self.here, (), True)


def assemble(text: str, origin: int = 0, size: int = 1 << 20) -> Program:
    """Assemble a program of at most `size` bytes for the address `origin`.

    Raises ValueError with line number, reason and text.

    >>> assemble("start: mov eax, 5\\n jmp start").code.hex(" ")
    'b8 05 00 00 00 eb f9'
    >>> assemble("mov eax, 5\\n frob eax")
    Traceback (most recent call last):
    ValueError: line 2: unknown mnemonic 'frob': frob eax
    """
    return _Assembly(text, origin, size).run()

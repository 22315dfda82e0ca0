"""Bytes in, one instruction out: what the processor's decoder does, as plain data.

Not decoded, and so undefined here: 16-bit addresses (prefix 67), 16-bit forms of what moves EIP or ESP by itself, floating
point and vector instructions.
"""

from typing import NamedTuple

from vlib.x86.table import BY_OPCODE

REGISTERS = {
    1: ("al", "cl", "dl", "bl", "ah", "ch", "dh", "bh"),
    2: ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di"),
    4: ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"),
}
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
ES, CS, SS, DS, FS, GS = range(6)
EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI = range(8)
POINTER = {0: "", 1: "byte ptr ", 2: "word ptr ", 4: "dword ptr ", 6: ""}
_FIXED = {"AL": ("r", 0, 1), "CL": ("r", 1, 1), "DX": ("r", 2, 2)} | {
    s.upper(): ("s", i, 2) for i, s in enumerate(SEGMENTS)
}
_PREFIXES = {0x26: ES, 0x2E: CS, 0x36: SS, 0x3E: DS, 0x64: FS, 0x65: GS}
LOCKABLE = {"add", "or", "adc", "sbb", "and", "sub", "xor", "inc", "dec", "not", "neg", "xchg", "cmpxchg", "xadd"}
_NO_16 = {"call", "jmp", "ret", "pushad", "popad", "leave", "pushfd", "popfd", "iretd", "callf", "jmpf", "retf"}
_STRING = {"movsb", "movsd", "cmpsb", "cmpsd", "stosb", "stosd", "lodsb", "lodsd", "scasb", "scasd"}


def default_segment(base: int) -> int:
    """Return the segment of a memory operand with this base register when no prefix says otherwise."""
    return SS if base in (ESP, EBP) else DS


class Undefined(ValueError):
    """Bytes that are no instruction here: the processor raises #UD."""


class Reg(NamedTuple):
    """A register: kind "r" (general), "s" (segment), "c" (control) or "d" (debug)."""

    kind: str
    number: int
    size: int

    def __str__(self):
        if self.kind == "r":
            return REGISTERS[self.size][self.number]
        return SEGMENTS[self.number] if self.kind == "s" else f"{self.kind}r{self.number}"


class Imm(NamedTuple):
    """A number in the instruction, as an unsigned value of the operand's size."""

    value: int

    def __str__(self):
        return hex(self.value)


class Rel(NamedTuple):
    """A jump's distance from the next instruction."""

    value: int


class Far(NamedTuple):
    """A selector and an offset."""

    selector: int
    offset: int

    def __str__(self):
        return f"{self.selector:#x}:{self.offset:#x}"


class Mem(NamedTuple):
    """A place in memory: segment, base and index register (-1: none), scale, displacement, and the size of the operand."""

    segment: int
    base: int
    index: int
    scale: int
    displacement: int
    size: int

    def __str__(self):
        parts = [REGISTERS[4][self.base]] if self.base >= 0 else []
        if self.index >= 0:
            parts.append(f"{REGISTERS[4][self.index]}*{self.scale}")
        if self.displacement or not parts:
            parts.append(hex(self.displacement))
        override = "" if self.segment == default_segment(self.base) else f"{SEGMENTS[self.segment]}:"
        return f"{POINTER[self.size]}{override}[{' + '.join(parts)}]"


class Instruction(NamedTuple):
    """One decoded instruction; `size` is its operand size (2 or 4), `segment` an override for string instructions."""

    mnemonic: str
    operands: tuple
    size: int
    length: int
    repeat: str  # "", "rep" or "repne"
    segment: int

    def text(self, address: int | None = None) -> str:
        """Return it as the assembler takes it; a jump's target relative to `$`, or as a number if the address is known.

        >>> decode(b"\\xeb\\xfe").text(), decode(b"\\xeb\\xfe").text(0x1000)
        ('jmp $ + 0x0', 'jmp 0x1000')
        """
        words = []
        for operand in self.operands:
            if isinstance(operand, Rel):
                away = self.length + operand.value
                sign = "-" if away < 0 else "+"
                operand = f"$ {sign} {abs(away):#x}" if address is None else hex(address + away & 0xFFFFFFFF)
            words.append(str(operand))
        name = f"{self.repeat} {self.mnemonic}".strip().split("_")[0]
        return f"{name} {', '.join(words)}".strip()

    def __str__(self):
        return self.text()


def _number(code, at, size, signed=False):
    if at + size > len(code):
        raise IndexError(f"instruction cut off after {len(code)} bytes")
    return int.from_bytes(code[at : at + size], "little", signed=signed)


def _memory(code, at, mod, rm, override):
    """Decode what follows a ModRM byte with mod < 3: return segment, base, index, scale, displacement, and where it ends."""
    base, index, scale, size = rm, -1, 1, {0: 0, 1: 1, 2: 4}[mod]
    if rm == 4:
        sib = _number(code, at, 1)
        at += 1
        base, index, scale = sib & 7, sib >> 3 & 7, 1 << (sib >> 6)
        index = -1 if index == 4 else index
    if mod == 0 and base == 5:
        base, size = -1, 4
    displacement = _number(code, at, size, signed=True) & 0xFFFFFFFF
    segment = override if override >= 0 else default_segment(base)
    return (segment, base, index, scale, displacement), at + size


def _exists(register: Reg, writing: bool) -> bool:
    """Return whether there is such a segment or control register; CS is loaded by jumps only."""
    if register.kind == "s":
        return register.number < 6 and not (writing and register.number == CS)
    return register.kind != "c" or register.number in (0, 2, 3, 4)


def decode(code: bytes) -> Instruction:
    """Decode the instruction at the start of some bytes.

    Raises `Undefined` for no instruction, IndexError when the bytes end before the instruction does.

    >>> print(decode(bytes.fromhex("8944cbfc90")))
    mov dword ptr [ebx + ecx*8 + 0xfffffffc], eax
    >>> decode(b"\\x0f\\x01\\xd8")
    Traceback (most recent call last):
    vlib.x86.decoder.Undefined: no instruction: 0f 01 d8
    """
    at, size, override, repeat, lock = 0, 4, -1, "", False
    while True:
        byte = _number(code, at, 1)
        if byte in _PREFIXES:
            override = _PREFIXES[byte]
        elif byte == 0x66:
            size = 2
        elif byte in (0xF2, 0xF3):
            repeat = "repne" if byte == 0xF2 else "rep"
        elif byte == 0xF0:
            lock = True
        else:
            break
        at += 1
    start, length = at, 2 if byte == 0x0F else 1
    if length == 2:
        _number(code, at, 2)
        if bytes(code[at : at + 2]) == b"\x0f\x01" and bytes(code[at : at + 3]) in BY_OPCODE:
            length = 3
    candidates = BY_OPCODE.get(bytes(code[at : at + length]), ())
    at += length
    modrm = _number(code, at, 1) if candidates and candidates[0].modrm else 0
    mod, reg, rm = modrm >> 6, modrm >> 3 & 7, modrm & 7
    encoding = next((e for e in candidates if e.extension in (-1, reg)), None)
    if encoding is None or (("M" in encoding.operands or "Mp" in encoding.operands) and mod == 3):
        raise Undefined(f"no instruction: {bytes(code[start : at + 1]).hex(' ')}")
    place = None
    if encoding.modrm:
        at += 1
        if mod < 3 and encoding.mnemonic not in ("mov_cr", "mov_dr"):
            place, at = _memory(code, at, mod, rm, override)
    operands = []
    for letter in encoding.operands:
        kind, width = letter[0], {"b": 1, "w": 2, "d": 4, "p": 6}.get(letter[1:], size)
        if letter == "eAX":
            operands.append(Reg("r", EAX, size))
        elif letter in _FIXED:
            operands.append(Reg(*_FIXED[letter]))
        elif letter == "1":
            operands.append(Imm(1))
        elif kind in "EMR":
            memory_size = 2 if letter == "Es" else 0 if letter == "M" else width
            operands.append(Mem(*place, memory_size) if place else Reg("r", rm, width))
        elif kind == "G":
            operands.append(Reg("r", reg, width))
        elif kind == "Z":
            operands.append(Reg("r", code[at - 1] & 7, width))
        elif kind in "SCD":
            operands.append(Reg(kind.lower(), reg, 4 if kind in "CD" else 2))
        elif kind == "I":
            width = 1 if letter == "Is" else width
            value = _number(code, at, width, signed=letter == "Is")
            operands.append(Imm(value & (1 << 8 * size) - 1))
            at += width
        elif kind == "J":
            operands.append(Rel(_number(code, at, width, signed=True)))
            at += width
        elif kind == "O":
            operands.append(Mem(override if override >= 0 else DS, -1, -1, 1, _number(code, at, 4), width))
            at += 4
        else:  # A
            operands.append(Far(_number(code, at + size, 2), _number(code, at, size)))
            at += size + 2
    name = encoding.mnemonic
    if size == 2 and name in _NO_16:
        raise Undefined(f"16-bit {name}")
    for i, operand in enumerate(operands):
        if isinstance(operand, Reg) and not _exists(operand, writing=i == 0 and name == "mov_seg"):
            raise Undefined(f"{name} with register {operand.kind}{operand.number}")
    if lock and not (name in LOCKABLE and operands and isinstance(operands[0], Mem)):
        raise Undefined(f"lock before {name}")
    return Instruction(name, tuple(operands), size, at, repeat if name in _STRING else "", override)

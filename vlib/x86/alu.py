"""Arithmetic and the flags it leaves, as pure functions of numbers; `bits` is 8, 16 or 32.

Flags that the manual leaves undefined are left at what QEMU leaves them at where that is simple, else at zero.
"""

CF, PF, AF, ZF, SF, TF, IF, DF, OF = 1, 4, 16, 64, 128, 256, 512, 1024, 2048
IOPL, NT, RF, VM, AC, ID = 3 << 12, 1 << 14, 1 << 16, 1 << 17, 1 << 18, 1 << 21
STATUS = CF | PF | AF | ZF | SF | OF
PARITY = tuple(PF * (1 - bin(byte).count("1") % 2) for byte in range(256))

# In the order of their number in an opcode: o b e be s p l le, each followed by its opposite.
_HALF = (
    lambda f: f & OF,
    lambda f: f & CF,
    lambda f: f & ZF,
    lambda f: f & (CF | ZF),
    lambda f: f & SF,
    lambda f: f & PF,
    lambda f: (f >> 4 ^ f) & SF,  # OF moved to the place of SF
    lambda f: f & ZF or (f >> 4 ^ f) & SF,
)


def _not(test):
    return lambda f: not test(f)


TESTS = tuple(test for half in _HALF for test in (half, _not(half)))


def sum_flags(a: int, b: int, result: int, bits: int) -> int:
    """Return the flags of a + b or a - b (with or without carry) from the operands and the *untrimmed* result.

    >>> sum_flags(0x7F, 1, 0x7F + 1, 8) == OF | SF | AF
    True
    >>> sum_flags(0, 1, 0 - 1, 8) == CF | PF | AF | SF
    True
    """
    carries = a ^ b ^ result  # bit i: the carry into bit i
    return (
        carries >> bits & CF
        | PARITY[result & 0xFF]
        | carries & AF
        | (0 if result & (1 << bits) - 1 else ZF)
        | result << 8 >> bits & SF
        | (carries ^ carries >> 1) << 12 >> bits & OF
    )


def logic_flags(result: int, bits: int) -> int:
    """Return the flags of and, or, xor, test.

    >>> logic_flags(0, 32) == ZF | PF
    True
    """
    return PARITY[result & 0xFF] | (0 if result else ZF) | result << 8 >> bits & SF


def signed(value: int, bits: int) -> int:
    """Return a number of `bits` bits as a signed one.

    >>> signed(0xFE, 8)
    -2
    """
    return value - (value >> bits - 1 << bits)


def shift(name: str, value: int, count: int, flags: int, bits: int) -> tuple[int, int]:
    """Return the result and all flags of a shift or rotation by `count` (already taken modulo 32).

    >>> shift("shl", 0x81, 1, 0, 8) == (2, CF | OF)
    True
    """
    mask, top = (1 << bits) - 1, bits - 1
    if not count:
        return value, flags
    if name in ("shl", "shr", "sar"):
        if name == "shl":
            before, carry = value << count - 1, value << count >> bits & 1
            result = value << count & mask
        else:
            before = (signed(value, bits) if name == "sar" else value) >> count - 1
            result, carry = before >> 1 & mask, before & 1
        overflow = (before ^ result) >> top & 1
        return result, flags & ~STATUS | carry | logic_flags(result, bits) | overflow * OF
    if name in ("rcl", "rcr"):
        wide, size = value | (flags & CF) << bits, bits + 1
        count %= size
        left = count if name == "rcl" else size - count
        wide = (wide << left | wide >> size - left) & (1 << size) - 1
        result, carry = wide & mask, wide >> bits
        if not count:
            return value, flags
    else:
        left = count % bits if name == "rol" else -count % bits
        result = (value << left | value >> bits - left) & mask
        carry = result & 1 if name == "rol" else result >> top
    if name in ("rcl", "rcr"):
        overflow = (value ^ result) >> top
    else:
        overflow = result >> top ^ (carry if name == "rol" else result >> top - 1 & 1)
    return result, flags & ~(CF | OF) | carry | overflow * OF

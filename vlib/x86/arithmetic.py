"""What the arithmetic instructions do: `RUN` has a function of processor and operation for each mnemonic.

A function reads everything, and writes memory, before it changes a register or a flag: so a fault leaves no trace.
"""

from vlib.x86.alu import CF, OF, STATUS, logic_flags, shift, signed, sum_flags
from vlib.x86.decoder import EAX, EDX, Mem
from vlib.x86.table import SHIFTS
from vlib.x86.traps import DE, MASK, Trap

KEEP = ~STATUS
RUN = {}


def operation(*names):
    """Enter a function into the table under these mnemonics."""

    def enter(function):
        RUN.update(dict.fromkeys(names, function))
        return function

    return enter


@operation("add")
def _add(cpu, op):
    a, b = op.get(), op.src()
    result = a + b
    op.put(result & op.mask)
    cpu.flags = cpu.flags & KEEP | sum_flags(a, b, result, op.bits)


@operation("adc")
def _adc(cpu, op):
    a, b = op.get(), op.src()
    result = a + b + (cpu.flags & CF)
    op.put(result & op.mask)
    cpu.flags = cpu.flags & KEEP | sum_flags(a, b, result, op.bits)


@operation("sub")
def _sub(cpu, op):
    a, b = op.get(), op.src()
    result = a - b
    op.put(result & op.mask)
    cpu.flags = cpu.flags & KEEP | sum_flags(a, b, result, op.bits)


@operation("sbb")
def _sbb(cpu, op):
    a, b = op.get(), op.src()
    result = a - b - (cpu.flags & CF)
    op.put(result & op.mask)
    cpu.flags = cpu.flags & KEEP | sum_flags(a, b, result, op.bits)


@operation("cmp")
def _cmp(cpu, op):
    a, b = op.get(), op.src()
    cpu.flags = cpu.flags & KEEP | sum_flags(a, b, a - b, op.bits)


@operation("neg")
def _neg(cpu, op):
    a = op.get()
    op.put(-a & op.mask)
    cpu.flags = cpu.flags & KEEP | sum_flags(0, a, -a, op.bits)


@operation("inc")
def _inc(cpu, op):
    a = op.get()
    op.put(a + 1 & op.mask)
    cpu.flags = cpu.flags & (KEEP | CF) | sum_flags(a, 1, a + 1, op.bits) & ~CF


@operation("dec")
def _dec(cpu, op):
    a = op.get()
    op.put(a - 1 & op.mask)
    cpu.flags = cpu.flags & (KEEP | CF) | sum_flags(a, 1, a - 1, op.bits) & ~CF


@operation("and")
def _and(cpu, op):
    result = op.get() & op.src()
    op.put(result)
    cpu.flags = cpu.flags & KEEP | logic_flags(result, op.bits)


@operation("or")
def _or(cpu, op):
    result = op.get() | op.src()
    op.put(result)
    cpu.flags = cpu.flags & KEEP | logic_flags(result, op.bits)


@operation("xor")
def _xor(cpu, op):
    result = op.get() ^ op.src()
    op.put(result)
    cpu.flags = cpu.flags & KEEP | logic_flags(result, op.bits)


@operation("test")
def _test(cpu, op):
    cpu.flags = cpu.flags & KEEP | logic_flags(op.get() & op.src(), op.bits)


@operation("not")
def _not(cpu, op):
    op.put(op.get() ^ op.mask)


@operation(*SHIFTS.values())
def _shift(cpu, op):
    result, flags = shift(op.insn.mnemonic, op.get(), op.src() & 31, cpu.flags, op.bits)
    op.put(result)
    cpu.flags = flags


@operation("xadd")
def _xadd(cpu, op):
    a, b = op.get(), op.src()
    result = a + b
    if isinstance(op.insn.operands[0], Mem):
        op.put(result & op.mask)
        op.put2(a)
    else:  # with the same register twice the sum is what stays
        op.put2(a)
        op.put(result & op.mask)
    cpu.flags = cpu.flags & KEEP | sum_flags(a, b, result, op.bits)


@operation("cmpxchg")
def _cmpxchg(cpu, op):
    old, accumulator = op.get(), cpu.regs[EAX] & op.mask
    op.put(op.src() if old == accumulator else old)
    if old != accumulator:
        cpu.regs[EAX] = cpu.regs[EAX] & ~op.mask | old
    cpu.flags = cpu.flags & KEEP | sum_flags(accumulator, old, accumulator - old, op.bits)


@operation("bt")
def _bt(cpu, op):
    cpu.flags = cpu.flags & ~CF | op.get() >> (op.src() & op.bits - 1) & 1


@operation("bsf", "bsr")
def _scan_bits(cpu, op):
    value = op.src()
    if value:
        op.put(value.bit_length() - 1 if op.insn.mnemonic == "bsr" else (value & -value).bit_length() - 1)
    cpu.flags = cpu.flags & KEEP | logic_flags(value, op.bits)


@operation("cwde")
def _cwde(cpu, op):
    half = op.insn.size * 4
    value = signed(cpu.regs[EAX] & (1 << half) - 1, half) & (1 << 2 * half) - 1
    cpu.regs[EAX] = value if half == 16 else cpu.regs[EAX] & ~0xFFFF | value


@operation("cdq")
def _cdq(cpu, op):
    bits = op.insn.size * 8
    value = (1 << bits) - 1 if cpu.regs[EAX] >> bits - 1 & 1 else 0
    cpu.regs[EDX] = value if bits == 32 else cpu.regs[EDX] & ~0xFFFF | value


def _put_pair(cpu, low, high, bits):
    regs = cpu.regs
    if bits == 8:
        regs[EAX] = regs[EAX] & ~0xFFFF | high << 8 | low
    else:
        keep = MASK ^ (1 << bits) - 1
        regs[EAX], regs[EDX] = regs[EAX] & keep | low, regs[EDX] & keep | high


def _pair(cpu, bits):
    low, high = cpu.regs[EAX], cpu.regs[EDX]
    mask = (1 << bits) - 1
    return low & 0xFFFF if bits == 8 else low & mask | (high & mask) << bits


@operation("mul")
def _mul(cpu, op):
    product = op.get() * (cpu.regs[EAX] & op.mask)
    low, high = product & op.mask, product >> op.bits
    _put_pair(cpu, low, high, op.bits)
    cpu.flags = cpu.flags & KEEP | logic_flags(low, op.bits) | (CF | OF if high else 0)


@operation("imul")
def _imul(cpu, op):
    bits, count = op.bits, len(op.insn.operands)
    if count == 1:
        product = signed(op.get(), bits) * signed(cpu.regs[EAX] & op.mask, bits)
        _put_pair(cpu, product & op.mask, product >> bits & op.mask, bits)
    else:
        product = signed(op.src(), bits) * signed(op.third if count == 3 else op.get(), bits)
        op.put(product & op.mask)
    low = product & op.mask
    cpu.flags = cpu.flags & KEEP | logic_flags(low, bits) | (0 if signed(low, bits) == product else CF | OF)


@operation("div")
def _div(cpu, op):
    divisor = op.get()
    if not divisor or (pair := _pair(cpu, op.bits)) // divisor > op.mask:
        raise Trap(DE)
    _put_pair(cpu, pair // divisor, pair % divisor, op.bits)


@operation("idiv")
def _idiv(cpu, op):
    divisor, dividend = signed(op.get(), op.bits), signed(_pair(cpu, op.bits), 2 * op.bits)
    if not divisor:
        raise Trap(DE)
    quotient = abs(dividend) // abs(divisor) * (1 if (dividend < 0) == (divisor < 0) else -1)  # towards zero
    if not -(op.mask >> 1) - 1 <= quotient <= op.mask >> 1:
        raise Trap(DE)
    _put_pair(cpu, quotient & op.mask, dividend - quotient * divisor & op.mask, op.bits)

"""What the ordinary instructions do: `RUN` has a function of processor and operation for each mnemonic.

A function reads everything, and writes memory, before it changes a register or a flag: so a fault leaves no trace.
"""

from vlib.x86.alu import CF, DF, OF, STATUS, TESTS, ZF, logic_flags, shift, signed, sum_flags
from vlib.x86.decoder import DS, EAX, EBP, ECX, EDI, EDX, ES, ESI, ESP, SS, Mem, Reg, Rel
from vlib.x86.table import CONDITIONS, SHIFTS
from vlib.x86.traps import DE, MASK, Trap

KEEP = ~STATUS
RUN = {}


def operation(*names):
    """Enter a function into the table under these mnemonics."""

    def enter(function):
        RUN.update(dict.fromkeys(names, function))
        return function

    return enter


# Moving


@operation("mov")
def _mov(cpu, op):
    op.put(op.src())


@operation("movzx")
def _movzx(cpu, op):
    op.put(op.src())


@operation("movsx")
def _movsx(cpu, op):
    op.put(signed(op.src(), 8 * op.insn.operands[1].size) & op.mask)


@operation("lea")
def _lea(cpu, op):
    op.put(op.address() & op.mask)


@operation("xchg")
def _xchg(cpu, op):
    a, b = op.get(), op.src()
    op.put(b)
    op.put2(a)


@operation("bswap")
def _bswap(cpu, op):
    op.put(int.from_bytes(op.get().to_bytes(4, "little"), "big"))


@operation("push")
def _push(cpu, op):
    cpu.push(op.get(), op.insn.size)


@operation("pop")
def _pop(cpu, op):
    regs, size = cpu.regs, op.insn.size
    top = regs[ESP]
    value = cpu.load(SS, top, size)
    regs[ESP] = top + size & MASK  # before the write: [esp] as a destination means the new top
    try:
        op.put(value)
    except Trap:
        regs[ESP] = top
        raise


@operation("pushad")
def _pushad(cpu, op):
    regs, top = cpu.regs, cpu.regs[ESP]
    for i in range(7, -1, -1):
        cpu.store(SS, top - 4 * (i + 1) & MASK, 4, regs[i])
    regs[ESP] = top - 32 & MASK


@operation("popad")
def _popad(cpu, op):
    top = cpu.regs[ESP]
    values = [cpu.load(SS, top + 4 * i & MASK, 4) for i in range(8)][::-1]
    values[ESP] = top + 32 & MASK
    cpu.regs[:] = values


@operation("leave")
def _leave(cpu, op):
    frame = cpu.regs[EBP]
    cpu.regs[EBP] = cpu.load(SS, frame, 4)
    cpu.regs[ESP] = frame + 4 & MASK


@operation("nop")
def _nop(cpu, op):
    pass


# Arithmetic


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


# Flags


@operation("clc")
def _clc(cpu, op):
    cpu.flags &= ~CF


@operation("stc")
def _stc(cpu, op):
    cpu.flags |= CF


@operation("cmc")
def _cmc(cpu, op):
    cpu.flags ^= CF


@operation("cld")
def _cld(cpu, op):
    cpu.flags &= ~DF


@operation("std")
def _std(cpu, op):
    cpu.flags |= DF


@operation("lahf")
def _lahf(cpu, op):
    cpu.regs[EAX] = cpu.regs[EAX] & ~0xFF00 | (cpu.flags & 0xD5 | 2) << 8


@operation("sahf")
def _sahf(cpu, op):
    cpu.flags = cpu.flags & ~0xD5 | cpu.regs[EAX] >> 8 & 0xD5


# Control


def _jump_near(cpu, op):
    cpu.eip = cpu.eip + op.value & MASK


def _jump_to(cpu, op):
    cpu.eip = op.get()


def _call_near(cpu, op):
    cpu.push(cpu.eip)
    cpu.eip = cpu.eip + op.value & MASK


def _call_to(cpu, op):
    target = op.get()
    cpu.push(cpu.eip)
    cpu.eip = target


RUN["jmp"] = {Rel: _jump_near, Reg: _jump_to, Mem: _jump_to}
RUN["call"] = {Rel: _call_near, Reg: _call_to, Mem: _call_to}


@operation("ret")
def _ret(cpu, op):
    top = cpu.regs[ESP]
    cpu.eip = cpu.load(SS, top, 4)
    cpu.regs[ESP] = top + 4 + (op.value if op.insn.operands else 0) & MASK


def _conditionals(name, test):
    def jump(cpu, op):
        if test(cpu.flags):
            cpu.eip = cpu.eip + op.value & MASK

    def move(cpu, op):
        value = op.src()
        op.put(value if test(cpu.flags) else op.get())

    def set_byte(cpu, op):
        op.put(1 if test(cpu.flags) else 0)

    RUN.update({f"j{name}": jump, f"cmov{name}": move, f"set{name}": set_byte})


for _name, _test_flags in zip(CONDITIONS, TESTS, strict=True):
    _conditionals(_name, _test_flags)


@operation("loop", "loope", "loopne")
def _loop(cpu, op):
    cpu.regs[ECX] = count = cpu.regs[ECX] - 1 & MASK
    zero = bool(cpu.flags & ZF)
    if count and {"loop": True, "loope": zero, "loopne": not zero}[op.insn.mnemonic]:
        cpu.eip = cpu.eip + op.value & MASK


@operation("jecxz")
def _jecxz(cpu, op):
    if not cpu.regs[ECX]:
        cpu.eip = cpu.eip + op.value & MASK


# Strings: one round each time; a repeated instruction goes back to itself, so that an interrupt can come in between.


@operation(*(name + size for name in ("movs", "stos", "lods", "cmps", "scas") for size in "bd"))
def _string(cpu, op):
    insn, regs = op.insn, cpu.regs
    if insn.repeat and not regs[ECX]:
        return
    name, size = insn.mnemonic[:4], 1 if insn.mnemonic[4] == "b" else insn.size
    source, target, mask = regs[ESI], regs[EDI], (1 << 8 * size) - 1
    segment = insn.segment if insn.segment >= 0 else DS
    move = -size if cpu.flags & DF else size
    other = cpu.load(ES, target, size) if name in ("cmps", "scas") else 0
    value = cpu.load(segment, source, size) if name in ("movs", "lods", "cmps") else regs[EAX] & mask
    if name in ("movs", "stos"):
        cpu.store(ES, target, size, value)
    elif name == "lods":
        regs[EAX] = regs[EAX] & ~mask | value
    else:
        cpu.flags = cpu.flags & KEEP | sum_flags(value, other, value - other, 8 * size)
    if name in ("movs", "lods", "cmps"):
        regs[ESI] = source + move & MASK
    if name != "lods":
        regs[EDI] = target + move & MASK
    if insn.repeat:
        regs[ECX] -= 1
        going = name not in ("cmps", "scas") or bool(cpu.flags & ZF) == (insn.repeat == "rep")
        if regs[ECX] and going:
            cpu.eip = cpu.eip - op.length & MASK

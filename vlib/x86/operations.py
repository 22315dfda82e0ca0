"""What the other ordinary instructions do: moving, flags, jumps and strings; they enter `arithmetic.RUN` too."""

from vlib.x86.alu import CF, DF, TESTS, ZF, signed, sum_flags
from vlib.x86.arithmetic import KEEP, RUN, operation
from vlib.x86.decoder import DS, EAX, EBP, ECX, EDI, ES, ESI, ESP, SS, Mem, Reg, Rel
from vlib.x86.table import CONDITIONS
from vlib.x86.traps import MASK, Trap

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

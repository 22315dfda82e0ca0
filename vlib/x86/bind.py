"""From a decoded instruction to something that runs: its operands become functions that read and write them.

That is done once for each instruction in memory, so that executing it costs a few calls.
"""

from functools import partial

from vlib.x86 import operations, system
from vlib.x86.decoder import LOCKABLE, Imm, Instruction, Mem, Reg, Rel
from vlib.x86.table import SHIFTS
from vlib.x86.traps import MASK

RUN = operations.RUN | system.RUN
_CHANGING = LOCKABLE | set(SHIFTS.values())


class Operation:
    """An instruction bound to a processor: `run(cpu, operation)` executes it.

    `get` and `put` read and write the first operand, `src` and `put2` the second, `third` reads the third.
    """

    __slots__ = (
        "address",
        "bits",
        "get",
        "insn",
        "length",
        "mask",
        "plain",
        "put",
        "put2",
        "run",
        "src",
        "third",
        "value",
    )

    def __init__(self, insn: Instruction):
        self.insn, self.length = insn, insn.length
        first = insn.operands[0] if insn.operands else None
        self.bits = 8 * (getattr(first, "size", 0) or insn.size)
        self.mask = (1 << self.bits) - 1


def effective_address(regs: list, place: Mem):
    """Return a function that computes the offset of a place in memory."""
    base, index, scale, displacement = place.base, place.index, place.scale, place.displacement
    if base >= 0 and index < 0:
        return lambda: regs[base] + displacement & MASK
    if base >= 0:
        return lambda: regs[base] + regs[index] * scale + displacement & MASK
    if index >= 0:
        return lambda: regs[index] * scale + displacement & MASK
    return lambda: displacement


def _general(regs, number, size):
    if size == 4:
        return partial(regs.__getitem__, number), partial(regs.__setitem__, number)
    low = number & 3 if size == 1 else number
    shift = 8 if size == 1 and number > 3 else 0
    mask = 0xFF if size == 1 else 0xFFFF
    keep = MASK ^ mask << shift

    def put(value):
        regs[low] = regs[low] & keep | value << shift

    return lambda: regs[low] >> shift & mask, put


def _accessors(cpu, operand, changing: bool = False):
    """Return how to read and how to write an operand; `changing`: it is read in order to be written."""
    if isinstance(operand, Mem):
        load, store = cpu.load_to_write if changing else cpu.load, cpu.store
        segment, size, regs, base = operand.segment, operand.size, cpu.regs, operand.base
        if base >= 0 and operand.index < 0:  # by far the commonest: spare it a call
            displacement = operand.displacement
            return (
                lambda: load(segment, regs[base] + displacement & MASK, size),
                lambda value: store(segment, regs[base] + displacement & MASK, size, value),
            )
        address = effective_address(regs, operand)
        return lambda: load(segment, address(), size), lambda value: store(segment, address(), size, value)
    if isinstance(operand, Reg) and operand.kind == "r":
        return _general(cpu.regs, operand.number, operand.size)
    if isinstance(operand, Reg) and operand.kind == "s":
        return lambda: cpu.segs[operand.number].selector, None
    value = operand.value if isinstance(operand, Imm) else None
    return lambda: value, None


def _hooked(cpu, op):
    if not cpu.hook(cpu, op.insn):
        op.plain(cpu, op)


def bind(cpu, insn: Instruction) -> Operation:
    """Return the operation of an instruction on a processor.

    >>> from vlib.x86 import CPU, Memory, decode
    >>> cpu = CPU(Memory(4096))
    >>> add = bind(cpu, decode(bytes.fromhex("83c005")))
    >>> add.run(cpu, add), str(add.insn), cpu.regs[0]
    (None, 'add eax, 0x5', 5)
    """
    op = Operation(insn)
    operands = insn.operands
    if operands:
        op.get, op.put = _accessors(cpu, operands[0], insn.mnemonic in _CHANGING)
        op.value = operands[0].value if isinstance(operands[0], Rel | Imm) else operands[0]
        for operand in operands:
            if isinstance(operand, Mem):
                op.address = effective_address(cpu.regs, operand)
    if len(operands) > 1:
        op.src, op.put2 = _accessors(cpu, operands[1])
    if len(operands) > 2:
        op.third = operands[2].value
    op.run = RUN[insn.mnemonic]
    if isinstance(op.run, dict):  # by the kind of the first operand
        op.run = op.run[type(operands[0])]
    if cpu.hook is not None and insn.mnemonic in system.RUN:
        op.plain, op.run = op.run, _hooked
    return op

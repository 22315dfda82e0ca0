"""Crossing segments and privilege levels: loading segment registers, far jumps, interrupt entry and return.

The checks are those of the Intel SDM, volume 3, chapters 5 and 6, without call gates, task gates and 16-bit gates: these
raise #GP as a descriptor of a wrong type does.
"""

from vlib.x86.alu import AC, DF, ID, IF, IOPL, NT, RF, STATUS, TF, VM
from vlib.x86.decoder import CS, DS, ES, ESP, FS, GS, SS
from vlib.x86.segments import INTERRUPT_GATE, TRAP_GATE, Descriptor, Segment
from vlib.x86.traps import GP, MASK, NP, STACK, TSS, Trap

_ACCESSED = 1


def find_descriptor(cpu, selector: int) -> int | None:
    """Return the linear address of a selector's descriptor, or None if its table has none."""
    if selector & 4:
        base, limit = (cpu.ldtr.base, cpu.ldtr.descriptor.limit) if cpu.ldtr.descriptor.present else (0, -1)
    else:
        base, limit = cpu.gdtr
    return base + (selector & ~7) & MASK if selector | 7 <= limit else None


def read_descriptor(cpu, selector: int, vector: int = GP) -> Descriptor:
    """Return a selector's descriptor, or raise `Trap` for a selector outside its table."""
    address = find_descriptor(cpu, selector)
    if address is None:
        raise Trap(vector, selector & 0xFFFC)
    return Descriptor.parse(cpu.read_linear(address, 8))


def _loaded(cpu, selector: int, descriptor: Descriptor) -> Segment:
    """Return the segment, its descriptor marked as accessed."""
    if not descriptor.access & _ACCESSED:
        address = find_descriptor(cpu, selector)
        descriptor = descriptor._replace(access=descriptor.access | _ACCESSED)
        cpu.write_linear(address + 5, 1, descriptor.access)
    return Segment(selector, descriptor)


def load_segment(cpu, index: int, selector: int):
    """Load a data or stack segment register from a selector."""
    if index == SS:
        return cpu.set_segment(SS, _stack_segment(cpu, selector, cpu.cpl, GP))
    if not selector & 0xFFFC:
        return cpu.set_segment(index, Segment(selector, None))
    descriptor = read_descriptor(cpu, selector)
    hidden = not descriptor.conforming and max(selector & 3, cpu.cpl) > descriptor.dpl
    if not descriptor.readable or hidden:
        raise Trap(GP, selector & 0xFFFC)
    if not descriptor.present:
        raise Trap(NP, selector & 0xFFFC)
    return cpu.set_segment(index, _loaded(cpu, selector, descriptor))


def _stack_segment(cpu, selector: int, level: int, vector: int) -> Segment:
    if not selector & 0xFFFC:
        raise Trap(vector, 0)
    descriptor = read_descriptor(cpu, selector, vector)
    if not descriptor.writable or selector & 3 != level or descriptor.dpl != level:
        raise Trap(vector, selector & 0xFFFC)
    if not descriptor.present:
        raise Trap(STACK, selector & 0xFFFC)
    return _loaded(cpu, selector, descriptor)


def _code_segment(cpu, selector: int, allowed) -> Segment:
    """Return the segment of a far transfer; `allowed(descriptor)` judges its privilege level."""
    if not selector & 0xFFFC:
        raise Trap(GP, 0)
    descriptor = read_descriptor(cpu, selector)
    if not descriptor.code or not allowed(descriptor):
        raise Trap(GP, selector & 0xFFFC)
    if not descriptor.present:
        raise Trap(NP, selector & 0xFFFC)
    return _loaded(cpu, selector, descriptor)


def jump_far(cpu, selector: int, offset: int, call: bool):
    """Jump to, or call, code in another segment at the same level."""

    def allowed(descriptor):
        if descriptor.conforming:
            return descriptor.dpl <= cpu.cpl
        return selector & 3 <= cpu.cpl and descriptor.dpl == cpu.cpl

    code = _code_segment(cpu, selector, allowed)
    code.selector = selector & 0xFFFC | cpu.cpl
    if call:
        top = cpu.regs[ESP]
        cpu.store(SS, top - 4 & MASK, 4, cpu.segs[CS].selector)
        cpu.store(SS, top - 8 & MASK, 4, cpu.eip)
        cpu.regs[ESP] = top - 8 & MASK
    cpu.set_segment(CS, code)
    cpu.eip = offset


def set_flags(cpu, image: int):
    """Take EFLAGS from the stack, as POPF and IRET do: IOPL only at CPL 0, IF only where CPL <= IOPL, without a word."""
    mask = STATUS | TF | DF | NT | AC | ID
    if cpu.cpl == 0:
        mask |= IOPL
    if cpu.cpl <= cpu.flags >> 12 & 3:
        mask |= IF
    cpu.flags = cpu.flags & ~(mask | RF) | image & mask
    cpu.deadline = 0


def return_far(cpu, extra: int = 0, flags: bool = False):
    """Return to the far address on the stack: RETF, or IRET with `flags`; to an outer level with its stack."""
    top, outer = cpu.regs[ESP], False
    eip, selector = cpu.load(SS, top, 4), cpu.load(SS, top + 4 & MASK, 4) & 0xFFFF
    image = cpu.load(SS, top + 8 & MASK, 4) if flags else 0
    if flags and (cpu.flags & NT or (image & VM and cpu.cpl == 0)):
        raise Trap(GP, 0)  # return to another task, or to virtual-8086 mode: not modelled
    level = selector & 3

    def allowed(descriptor):
        return level >= cpu.cpl and (descriptor.dpl <= level if descriptor.conforming else descriptor.dpl == level)

    code = _code_segment(cpu, selector, allowed)
    top += (12 if flags else 8) + extra
    outer = level > cpu.cpl
    if outer:
        new_top, stack_selector = cpu.load(SS, top & MASK, 4), cpu.load(SS, top + 4 & MASK, 4) & 0xFFFF
        cpu.set_segment(SS, _stack_segment(cpu, stack_selector, level, GP))
        top = new_top + extra
    if flags:
        set_flags(cpu, image)
    cpu.regs[ESP], cpu.eip = top & MASK, eip
    cpu.set_segment(CS, code)
    if outer:
        cpu.set_cpl(level)
        for index in (ES, DS, FS, GS):
            descriptor = cpu.segs[index].descriptor
            if descriptor.dpl < level and not descriptor.conforming:
                cpu.set_segment(index, Segment(0, None))


def _inner_stack(cpu, level: int) -> tuple[Segment, int]:
    """Return the stack segment and pointer that the task state gives for a level."""
    tss = cpu.tr
    if level * 8 + 11 > tss.descriptor.limit or not tss.descriptor.present:
        raise Trap(TSS, tss.selector & 0xFFFC)
    place = tss.base + 4 + 8 * level & MASK
    selector = cpu.read_linear(place + 4 & MASK, 2)
    return _stack_segment(cpu, selector, level, TSS), cpu.read_linear(place, 4)


def enter(cpu, vector: int, error: int | None, back: int, software: bool):
    """Enter the handler of a vector through the IDT; `back` is the EIP to return to. A fault on the way leaves no trace."""
    code_of = vector * 8 + 2
    if vector * 8 + 7 > cpu.idtr[1]:
        raise Trap(GP, code_of)
    gate = cpu.read_linear(cpu.idtr[0] + vector * 8 & MASK, 8)
    access, selector = gate >> 40 & 0xFF, gate >> 16 & 0xFFFF
    if access & 0x1F not in (INTERRUPT_GATE, TRAP_GATE) or (software and access >> 5 & 3 < cpu.cpl):
        raise Trap(GP, code_of)
    if not access & 0x80:
        raise Trap(NP, code_of)
    code = _code_segment(cpu, selector, lambda descriptor: descriptor.dpl <= cpu.cpl)
    level = cpu.cpl if code.descriptor.conforming else code.descriptor.dpl
    frame = [cpu.flags, cpu.segs[CS].selector, back]
    before = cpu.cpl, cpu.segs[SS], cpu.regs[ESP]
    try:
        if level < cpu.cpl:
            frame = [cpu.segs[SS].selector, cpu.regs[ESP], *frame]
            stack, top = _inner_stack(cpu, level)
            cpu.set_cpl(level)
            cpu.set_segment(SS, stack)
            cpu.regs[ESP] = top
        for word in frame if error is None else [*frame, error]:
            cpu.push(word)
    except Trap:
        cpu.set_cpl(before[0])
        cpu.segs[SS], cpu.regs[ESP] = before[1:]
        raise
    code.selector = selector & 0xFFFC | level
    cpu.set_segment(CS, code)
    cpu.eip = gate & 0xFFFF | gate >> 32 & 0xFFFF0000
    cpu.flags &= ~(TF | NT | RF | VM | (IF if access & 0x1F == INTERRUPT_GATE else 0))

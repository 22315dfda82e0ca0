"""What the instructions do that touch, or tell of, the state that a hypervisor must own: the matter of the whole course.

Three kinds, side by side: privileged ones raise #GP outside of ring 0; those bound to IOPL raise #GP above it; and
sensitive ones that raise nothing (`table.SENSITIVE_UNPRIVILEGED`), unless CR4.UMIP stops five of them.
"""

from vlib.x86.alu import IF, OF, RF, VM, ZF
from vlib.x86.decoder import EAX, EBX, ECX, EDX, SS, Far, Mem, Reg
from vlib.x86.segments import LDT, TSS_AVAILABLE, TSS_BUSY, Descriptor, Segment
from vlib.x86.transfer import find_descriptor, jump_far, load_segment, read_descriptor, return_far, set_flags
from vlib.x86.traps import BP, GP, MASK, NP, OVERFLOW, UD, Trap

PE, MP, EM, TS, ET, WP, PG = 1, 2, 4, 8, 16, 1 << 16, 1 << 31  # bits of CR0
NW, CD = 1 << 29, 1 << 30
TSD, DE, PSE, PGE, PCE, UMIP = 4, 8, 16, 128, 256, 2048  # bits of CR4; the others are reserved here
RUN = {}


def operation(*names, ring: int = 3):
    """Enter a function into the table; above `ring` the instruction raises #GP(0)."""

    def enter(function):
        def checked(cpu, op):
            if cpu.cpl > ring:
                raise Trap(GP, 0)
            function(cpu, op)

        RUN.update(dict.fromkeys(names, function if ring == 3 else checked))
        return function

    return enter


def _below_umip(cpu):
    """The modern cure of five of the holes: UMIP makes them privileged."""
    if cpu.cr[4] & UMIP and cpu.cpl:
        raise Trap(GP, 0)


def _below_iopl(cpu):
    if cpu.cpl > cpu.flags >> 12 & 3:
        raise Trap(GP, 0)


# Tables of descriptors


@operation("sgdt", "sidt")
def _store_table(cpu, op):
    _below_umip(cpu)
    base, limit = cpu.gdtr if op.insn.mnemonic == "sgdt" else cpu.idtr
    segment, address = op.value.segment, op.address()
    cpu.store(segment, address, 2, limit)
    cpu.store(segment, address + 2 & MASK, 4, base)


@operation("lgdt", "lidt", ring=0)
def _load_table(cpu, op):
    segment, address = op.value.segment, op.address()
    table = cpu.load(segment, address + 2 & MASK, 4), cpu.load(segment, address, 2)
    if op.insn.mnemonic == "lgdt":
        cpu.gdtr = table
    else:
        cpu.idtr = table


@operation("sldt", "str")
def _store_selector(cpu, op):
    _below_umip(cpu)
    op.put((cpu.ldtr if op.insn.mnemonic == "sldt" else cpu.tr).selector)


@operation("lldt", ring=0)
def _lldt(cpu, op):
    selector = op.get()
    if not selector & 0xFFFC:
        cpu.ldtr = Segment(selector, None)
        return
    cpu.ldtr = Segment(selector, _system_descriptor(cpu, selector, LDT))


@operation("ltr", ring=0)
def _ltr(cpu, op):
    selector = op.get()
    if not selector & 0xFFFC:
        raise Trap(GP, 0)
    descriptor = _system_descriptor(cpu, selector, TSS_AVAILABLE)
    descriptor = descriptor._replace(access=descriptor.access & 0xF0 | TSS_BUSY)
    cpu.write_linear(find_descriptor(cpu, selector) + 5, 1, descriptor.access)
    cpu.tr = Segment(selector, descriptor)


def _system_descriptor(cpu, selector: int, kind: int) -> Descriptor:
    descriptor = read_descriptor(cpu, selector) if not selector & 4 else None
    if descriptor is None or descriptor.access & 0x1F != kind:
        raise Trap(GP, selector & 0xFFFC)
    if not descriptor.present:
        raise Trap(NP, selector & 0xFFFC)
    return descriptor


# Looking at descriptors


def _visible(cpu, selector: int, kinds: tuple) -> Descriptor | None:
    """Return the descriptor if the program may know of it: code and data, and the system types in `kinds`."""
    if not selector & 0xFFFC or find_descriptor(cpu, selector) is None:
        return None
    descriptor = read_descriptor(cpu, selector)
    if descriptor.system and descriptor.access & 15 not in kinds:
        return None
    if not descriptor.conforming and max(cpu.cpl, selector & 3) > descriptor.dpl:
        return None
    return descriptor


def _set_zero(cpu, yes):
    cpu.flags = cpu.flags | ZF if yes else cpu.flags & ~ZF


@operation("lar")
def _lar(cpu, op):
    selector = op.src() & 0xFFFF
    descriptor = _visible(cpu, selector, (1, 2, 3, 4, 5, 9, 11, 12))
    if descriptor:
        op.put(cpu.read_linear(find_descriptor(cpu, selector) + 4, 4) & 0xF0FF00 & op.mask)
    _set_zero(cpu, descriptor)


@operation("lsl")
def _lsl(cpu, op):
    descriptor = _visible(cpu, op.src() & 0xFFFF, (1, 2, 3, 9, 11))
    if descriptor:
        op.put(descriptor.limit & op.mask)
    _set_zero(cpu, descriptor)


@operation("verr", "verw")
def _verify(cpu, op):
    descriptor = _visible(cpu, op.get() & 0xFFFF, ())
    _set_zero(cpu, descriptor and (descriptor.readable if op.insn.mnemonic == "verr" else descriptor.writable))


# Control, debug and model-specific registers


@operation("smsw")
def _smsw(cpu, op):
    _below_umip(cpu)
    op.put(cpu.cr[0] & (0xFFFF if isinstance(op.value, Mem) else op.mask))


@operation("lmsw", ring=0)
def _lmsw(cpu, op):
    cpu.set_cr(0, cpu.cr[0] & ~(MP | EM | TS) | op.get() & (MP | EM | TS))


@operation("clts", ring=0)
def _clts(cpu, op):
    cpu.set_cr(0, cpu.cr[0] & ~TS)


def check_cr(number: int, value: int) -> int:
    """Return what a control register becomes when a program writes a value, or raise `Trap`."""
    if number == 0:
        if not value & PE or (value & NW and not value & CD):
            raise Trap(GP, 0)
        value |= ET
    if number == 4 and value & ~(TSD | DE | PSE | PGE | PCE | UMIP):
        raise Trap(GP, 0)
    return value


def _mov_cr(cpu, op):
    first, second = op.insn.operands
    if first.kind == "r":
        op.put(cpu.cr[second.number])
        return
    cpu.set_cr(first.number, check_cr(first.number, op.src()))


def _mov_dr(cpu, op):
    first, second = op.insn.operands
    if first.kind == "r":
        op.put(cpu.dr[second.number])
    else:
        cpu.dr[first.number] = op.src()


operation("mov_cr", ring=0)(_mov_cr)
operation("mov_dr", ring=0)(_mov_dr)


@operation("invlpg", ring=0)
def _invlpg(cpu, op):
    cpu.paging.flush_page(cpu.segs[op.value.segment].base + op.address() & MASK)
    cpu.fetched.clear()


@operation("invd", "wbinvd", ring=0)
def _cache(cpu, op):
    """Flush or drop the caches, of which there are none."""


@operation("rdmsr", ring=0)
def _rdmsr(cpu, op):
    number = cpu.regs[ECX]
    if number != 0x10 and number not in cpu.msr:
        raise Trap(GP, 0)
    value = cpu.cycles if number == 0x10 else cpu.msr[number]
    cpu.regs[EAX], cpu.regs[EDX] = value & MASK, value >> 32 & MASK


@operation("wrmsr", ring=0)
def _wrmsr(cpu, op):
    if cpu.regs[ECX] not in cpu.msr:
        raise Trap(GP, 0)
    cpu.msr[cpu.regs[ECX]] = cpu.regs[EAX] | cpu.regs[EDX] << 32


@operation("rdtsc")
def _rdtsc(cpu, op):
    if cpu.cr[4] & TSD and cpu.cpl:
        raise Trap(GP, 0)
    cpu.regs[EAX], cpu.regs[EDX] = cpu.cycles & MASK, cpu.cycles >> 32 & MASK


@operation("rdpmc")
def _rdpmc(cpu, op):
    if (cpu.cpl and not cpu.cr[4] & PCE) or cpu.regs[ECX]:
        raise Trap(GP, 0)
    cpu.regs[EAX], cpu.regs[EDX] = cpu.steps & MASK, cpu.steps >> 32 & MASK


@operation("cpuid")
def _cpuid(cpu, op):
    leaf = cpu.regs[EAX] if cpu.regs[EAX] in cpu.cpuid else max(cpu.cpuid)
    cpu.regs[EAX], words = cpu.cpuid[leaf]
    for i, register in enumerate((EBX, EDX, ECX)):
        cpu.regs[register] = int.from_bytes(words[4 * i : 4 * i + 4], "little")


# Interrupts and flags


@operation("cli")
def _cli(cpu, op):
    _below_iopl(cpu)
    cpu.flags &= ~IF


@operation("sti")
def _sti(cpu, op):
    _below_iopl(cpu)
    if not cpu.flags & IF:
        cpu.flags |= IF
        cpu.shadow, cpu.deadline = True, 0


@operation("pushfd")
def _pushfd(cpu, op):
    cpu.push(cpu.flags & ~(VM | RF))


@operation("popfd")
def _popfd(cpu, op):
    image = cpu.load(SS, cpu.regs[4], 4)
    cpu.regs[4] = cpu.regs[4] + 4 & MASK
    set_flags(cpu, image)


@operation("hlt", ring=0)
def _hlt(cpu, op):
    cpu.halted, cpu.deadline = True, 0


@operation("int")
def _int(cpu, op):
    raise Trap(op.value, software=True)


@operation("int3")
def _int3(cpu, op):
    raise Trap(BP, software=True)


@operation("into")
def _into(cpu, op):
    if cpu.flags & OF:
        raise Trap(OVERFLOW, software=True)


@operation("ud2", "vmcall")
def _undefined(cpu, op):
    """Raise #UD: for VMCALL, because no hypervisor with hardware support is below; such a one catches it by the hook."""
    raise Trap(UD)


# Ports


def check_port(cpu, port: int, size: int):
    """Raise `Trap` unless IOPL or the bit map in the task state allows `size` ports from this one on."""
    if cpu.cpl > cpu.flags >> 12 & 3:
        task = cpu.tr
        place = cpu.read_linear(task.base + 0x66 & MASK, 2) + port // 8 if task.descriptor.limit >= 0x67 else 1 << 16
        if place + 1 > task.descriptor.limit:
            raise Trap(GP, 0)
        if cpu.read_linear(task.base + place & MASK, 2) >> port % 8 & (1 << size) - 1:
            raise Trap(GP, 0)


def _port(cpu, op, operand):
    """Return the port and the size of an access that is allowed."""
    port, size = operand() & 0xFFFF, op.insn.operands[0].size if op.insn.mnemonic == "in" else op.insn.operands[1].size
    check_port(cpu, port, size)
    return port, size


@operation("in")
def _in(cpu, op):
    port, size = _port(cpu, op, op.src)
    op.put(cpu.board.input(port, size, cpu.cycles))


@operation("out")
def _out(cpu, op):
    port, size = _port(cpu, op, op.get)
    cpu.board.output(port, size, op.src(), cpu.cycles)
    cpu.deadline = 0


# Segments


def _shadow(cpu, index):
    """Hold interrupts back for one instruction after a new SS, so that a new ESP can follow."""
    if index == SS:
        cpu.shadow, cpu.deadline = True, 0


@operation("mov_seg")
def _mov_seg(cpu, op):
    first = op.insn.operands[0]
    if isinstance(first, Reg) and first.kind == "s":
        load_segment(cpu, first.number, op.src())
        _shadow(cpu, first.number)
    else:
        op.put(op.src())


@operation("push_seg")
def _push_seg(cpu, op):
    cpu.push(op.get(), op.insn.size)


@operation("pop_seg")
def _pop_seg(cpu, op):
    selector = cpu.load(SS, cpu.regs[4], op.insn.size) & 0xFFFF
    load_segment(cpu, op.value.number, selector)
    cpu.regs[4] = cpu.regs[4] + op.insn.size & MASK
    _shadow(cpu, op.value.number)


@operation("jmpf", "callf")
def _jump_far(cpu, op):
    if isinstance(op.value, Far):
        selector, offset = op.value
    else:
        segment, address = op.value.segment, op.address()
        offset, selector = cpu.load(segment, address, 4), cpu.load(segment, address + 4 & MASK, 2)
    jump_far(cpu, selector, offset, op.insn.mnemonic == "callf")


@operation("retf")
def _retf(cpu, op):
    return_far(cpu, op.value if op.insn.operands else 0)


@operation("iretd")
def _iretd(cpu, op):
    return_far(cpu, flags=True)

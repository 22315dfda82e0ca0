"""Five monitors: equivalence with the bare machine, where theory denies it, and what each of them is about."""

import random

import pytest

from vlib.guests import GUESTS, NATIVE, guest, make
from vlib.monitors import (
    VMCS,
    BinaryTranslation,
    Controls,
    Hardware,
    Host,
    Native,
    Paravirtual,
    TrapAndEmulate,
    first_difference,
    ported,
    side_by_side,
)
from vlib.monitors.page_types import PageTypes, Refused
from vlib.monitors.port import PORTS, diff
from vlib.monitors.translator import UNIT
from vlib.x86 import Memory


def shadowed(guest, host=None):
    return Hardware(guest, host, nested=False)


def in_ring_3(guest, host=None):
    return TrapAndEmulate(guest, host, ring=3)


RIGHT = [BinaryTranslation, Hardware, shadowed]
# What the holes make of the guests under trap-and-emulate: in ring 1, and in ring 3.
WRONG = {
    "kernel": ("AAAAAA6BBBBBB6\n", "A!B!\n"),  # IRET to the first process: interrupts stay off, so no time slices
    "popf": ("00000000",) * 2, "pushf": ("00000200",) * 2, "push_cs": ("00000001", "00000003"),
    "mov_ss": ("00000001", "00000003"), "smsw": ("00000000",) * 2, "sgdt": ("00000fff",) * 2,
    "sidt": ("000007ff",) * 2, "str": ("00000ff8",) * 2, "sldt": ("00000000",) * 2,
    "lar": ("00002000", "00006000"), "lsl": ("ffbfffff",) * 2, "verw": ("00000001",) * 2,
}  # fmt: skip


def natively(program):
    machine = Native(program)
    return machine, machine.run(50_000)


@pytest.mark.parametrize("name", GUESTS)
@pytest.mark.parametrize("monitor", RIGHT)
def test_the_guest_ends_in_the_very_state_of_the_bare_machine(monitor, name):
    machine, end = natively(guest(name))
    other = monitor(guest(name))
    assert other.run(50_000) == end == "halt"
    assert other.console == NATIVE[name]
    assert other.state() == machine.state()  # to the cycle, with all of memory


@pytest.mark.parametrize("name", GUESTS)
@pytest.mark.parametrize("slot, monitor", [(0, TrapAndEmulate), (1, in_ring_3)])
def test_deprivileging_is_wrong_on_every_hole_and_no_error_appears(slot, monitor, name):
    other = monitor(guest(name))
    assert other.run(50_000) == "halt"
    assert other.console == WRONG[name][slot] != NATIVE[name]
    if name != "kernel":  # nothing but what the kernel itself would have met: no exception was reflected
        assert not [exit for exit in other.exits if exit.reason.startswith("reflect")]


INNOCENT = """
        cli
        mov esp, 0x1800
        mov eax, cr0
        or eax, 8
        mov cr0, eax
        mov al, 'x'
        out 0xe9, al
        clts
        hlt
        space 0x1000
"""


@pytest.mark.parametrize("monitor", [TrapAndEmulate, in_ring_3, *RIGHT])
def test_where_all_sensitive_instructions_trap_even_deprivileging_is_right(monitor):
    machine, _ = natively(make("innocent", INNOCENT))
    other = monitor(make("innocent", INNOCENT))
    other.run(100)
    assert other.console == "x" and other.state() == machine.state()


def test_the_first_wrong_step_is_the_hole_itself():
    def at(name):
        found = first_difference(TrapAndEmulate(guest(name)), Native(guest(name)))
        return guest(name).program.where(found.eip).split(": ")[1].split(";")[0].strip(), set(found.fields)

    assert at("popf") == ("popfd", {"flags"})
    assert at("smsw") == ("smsw ax", {"regs"})
    assert at("kernel") == ("iretd", {"flags"})
    assert first_difference(Hardware(guest("popf")), Native(guest("popf"))) is None
    assert first_difference(BinaryTranslation(guest("smsw")), Native(guest("smsw"))) is None


def test_user_traps_are_reflected_and_user_code_is_never_emulated():
    monitor = TrapAndEmulate(guest("kernel"))
    monitor.run()
    assert monitor.counts()["reflect int 0x80"] == 16 and monitor.counts()["reflect #PF"] == 2
    emulated = [exit for exit in monitor.exits if exit.reason.startswith("emulate")]
    assert emulated and all(exit.eip < 0x400000 for exit in emulated)
    steps = [exit.step for exit in monitor.exits]
    assert steps == sorted(steps)


TRIPLE = "nop \n lidt [none] \n ud2 \n none: dd 0, 0"


@pytest.mark.parametrize("monitor", [TrapAndEmulate, in_ring_3, *RIGHT, Paravirtual])
def test_one_guest_dies_and_the_other_goes_on(monitor):
    host = Host()
    second = ported("kernel") if monitor is Paravirtual else guest("kernel")
    alone = monitor(second)
    alone.run()
    guests = [monitor(make("triple", TRIPLE), host), monitor(second, host)]
    assert side_by_side(guests, slice_=97) == ["shutdown", "halt"]
    assert guests[1].console == alone.console
    assert guests[1].state()["memory"] == alone.state()["memory"] or monitor is Paravirtual  # that one knows its pages


def test_guests_under_different_monitors_share_one_processor():
    host = Host()
    guests = [BinaryTranslation(guest("kernel"), host), Hardware(guest("kernel"), host), shadowed(guest("popf"), host)]
    guests.append(TrapAndEmulate(guest("pushf"), host))
    assert side_by_side(guests, slice_=61) == ["halt"] * 4
    assert [g.console for g in guests] == [NATIVE["kernel"], NATIVE["kernel"], NATIVE["popf"], "00000200"]


BITS = (
    "add eax, {n}", "mov ebx, eax", "push eax", "pop ecx", "pushfd", "popfd", "cli", "sti", "rol edx, 3", "push cs",
    "pop edx", "mov edx, cr0", "smsw ax", "str ax", "sldt dx", "mov eax, ss", "mov [data + 4 * {k}], eax", "cpuid",
    "mov ecx, [data + 4 * {k}]", "xchg eax, ecx", "sgdt [data + 4 * {k}]", "lar eax, ecx", "mov ecx, 0x10", "jz $ + 3",
    "call f", "mov ds, [selector]", "pushad", "popad", "loop $ + 2", "cmp eax, ebx", "jc $ + 4", "rdtsc", "int 0x20",
    "xor eax, eax", "div ecx", "ud2", "lock inc dword ptr [data]", "push ds", "pop es", "clts", "mov eax, gs",
)  # fmt: skip


def random_guest(seed):
    rng = random.Random(seed)
    body = [rng.choice(BITS).format(n=rng.getrandbits(16), k=rng.randrange(8)) for _ in range(60)]
    start, end = GUESTS["pushf"].split("        cli\n        pushfd                          ; IF must be off now\n")
    end = end.split("and eax, 0x200")[1]
    handlers = "f: ret\nselector: dd 0x10\nfault: add dword ptr [esp], 2\n iretd\n"
    text = start + "\n".join(body) + end
    text = text.replace("where:  dd 0, 0\n", "where: dd 0, 0\ndata: space 64\n").replace("timer:", handlers + "timer:")
    gate = "dd 0x80000 | fault & 0xffff, fault & 0xffff0000 | 0x8e00\n"
    text = text.replace("idt:    space 8 * 0x20", f"idt: {gate} space 8 * 5\n {gate} org idt + 8 * 0x20")
    return make(f"random {seed}", text)


@pytest.mark.parametrize("seed", range(40))
def test_random_kernels(seed):
    program = random_guest(seed)
    machine, end = natively(program)
    for monitor in RIGHT:
        other = monitor(program)
        assert (other.run(50_000), other.state()) == (end, machine.state())


@pytest.mark.parametrize("period", range(3, 40, 2))
def test_interrupts_that_come_at_every_moment(period):
    text = GUESTS["kernel"].replace("mov al, 64", f"mov al, {period}")
    program = make(
        "ticking", text.replace("& 0xffff0000 | 0x8e00", "& 0xffff0000 | 0x8f00") if period % 4 == 3 else text
    )
    machine = Native(program)
    end = machine.run(20_000)
    for monitor in RIGHT:
        other = monitor(program)
        assert (other.run(20_000), other.console) == (end, machine.console)
        assert end == "limit" or other.state() == machine.state()


# Binary translation


def test_a_hot_loop_never_leaves_the_cache():
    def exits(rounds):
        monitor = BinaryTranslation(
            make("hot", f"mov ecx, {rounds}\n again: inc eax\n cli\n dec ecx\n jnz again\n hlt")
        )
        monitor.run()
        assert monitor.v.regs[0] == rounds
        return monitor.counts()

    assert exits(10_000) == exits(10) and exits(10)["call-out hlt"] == 1 and "call-out cli" not in exits(10)


def test_units_have_at_most_twelve_instructions_and_dead_code_is_never_translated():
    monitor = BinaryTranslation(make("long", "nop\n" * 100 + "hlt\n" + "nop\n" * 500))
    monitor.run()
    assert monitor.translated == 101 and monitor.units == -(-101 // UNIT)


def test_return_addresses_on_the_stack_are_the_guests():
    text = "mov esp, 0x900\n call next\n next: pop eax\n call f\n hlt\n f: mov ebx, [esp]\n ret\n space 4096"
    program = make("where", text)
    monitor = BinaryTranslation(program)
    assert monitor.run() == "halt"
    assert monitor.v.regs[0] == program.program.labels["next"]
    assert monitor.v.regs[3] == program.program.labels["f"] - 1
    assert monitor.state() == natively(program)[0].state()


MODIFYING = """
        mov esp, 0x2000                 ; a page that has no code
        mov ecx, 3
again:  call f
        inc byte ptr [f + 1]            ; the number that it returns
        loop again
        mov byte ptr [next], 0x43       ; inc ebx, in place of the very next instruction
next:   nop
        hlt
f:      mov eax, 0x100
        add edx, eax
        ret
        space 4096
"""


@pytest.mark.parametrize("monitor", RIGHT)
def test_code_that_changes_itself(monitor):
    machine, _ = natively(make("modifying", MODIFYING))
    other = monitor(make("modifying", MODIFYING))
    assert other.run(1000) == "halt"
    assert other.state() == machine.state() and (other.v.regs[2], other.v.regs[3]) == (0x303, 1)
    if monitor is BinaryTranslation:
        assert other.counts()["code written"] == 4


def test_a_full_cache_is_emptied():
    """100 blocks, the first entered at two places and one cut by the end of its page; the end of the loop, and HLT."""
    blocks = "\n".join(f"b{i}: " + "add eax, 0x12345\n" * 10 + f"jmp b{i + 1}" for i in range(100))
    program = make("large", f"mov ecx, 3\n{blocks}\nb100: dec ecx\njnz b0\nhlt")
    small, large = BinaryTranslation(program, cache_pages=1), BinaryTranslation(program)
    for monitor in (small, large):
        assert monitor.run() == "halt" and monitor.state() == natively(program)[0].state()
    assert large.units == 104 and small.units > 2 * large.units
    with pytest.raises(ValueError, match="cache of 0 pages, allowed: 1 to 64"):
        BinaryTranslation(program, cache_pages=0)


# Hardware assistance


def test_each_entry_has_its_exit():
    for nested in (True, False):
        monitor = Hardware(guest("kernel"), nested=nested)
        monitor.run()
        assert monitor.entries == len(monitor.exits)


def test_popf_and_system_calls_do_not_exit_and_nested_paging_leaves_page_tables_to_the_guest():
    nested, shadow = Hardware(guest("kernel")), shadowed(guest("kernel"))
    nested.run(), shadow.run()
    for name in ("trace", "invlpg", "cr3 write", "#PF", "reflect #PF"):
        assert not nested.counts()[name]
    assert shadow.counts()["trace"] == shadow.counts()["invlpg"] == 2 and shadow.counts()["cr3 write"] == 5
    assert not [e for e in (*nested.exits, *shadow.exits) if "int" in e.reason.split() or "pop" in e.reason]


def test_hlt_exits_only_if_asked_for_and_cpuid_always():
    waiting = make("waiting", "cpuid\n hlt")
    for hlt in (True, False):
        monitor = Hardware(waiting, controls=Controls(hlt=hlt))
        assert monitor.run() == "halt"
        assert (monitor.counts()["hlt"], monitor.counts()["cpuid"]) == (hlt, 1)


def test_control_register_bits_in_the_mask_exit_when_they_change_and_are_read_from_the_shadow():
    text = "mov eax, cr0\n or eax, {bit}\n mov cr0, eax\n mov ebx, cr0\n smsw ecx\n hlt"
    for bit, exits in ((8, 1), (2, 0)):  # TS is kept by the hypervisor, MP is not
        monitor = Hardware(make("cr0", text.format(bit=bit)), controls=Controls(cr0_mask=8))
        monitor.run()
        assert monitor.counts()["cr0 write"] == exits
        assert monitor.v.regs[3] & bit and monitor.v.regs[1] & bit and monitor.v.cr[0] & bit


def test_a_port_that_is_not_in_the_bitmap_is_the_real_one():
    monitor = Hardware(make("port", "mov al, 'y'\n out 0xe9, al\n hlt"), controls=Controls(ports=frozenset()))
    monitor.run()
    assert monitor.console == "" and monitor.host.cpu.board.console == b"y"


def test_exceptions_exit_by_their_bit():
    text = GUESTS["pushf"].replace("and eax, 0x200", "ud2\n mov eax, 0").replace("timer:", "fault: iretd\ntimer:")
    for bits, exits in ((0, 0), (1 << 6, 1)):
        monitor = Hardware(make("ud", text), controls=Controls(exceptions=bits))
        monitor.run(300)
        assert monitor.counts()["#UD"] == exits  # both end in the guest's own (here empty) gate
        assert monitor.counts()["triple fault"] == 1


def test_shadow_paging_insists_on_its_controls():
    with pytest.raises(ValueError, match="controls without invlpg, cr3_load, cr3_store, exceptions"):
        Hardware(guest("popf"), nested=False, controls=Controls())
    with pytest.raises(ValueError, match="no field 'guest_rip' in the VMCS"):
        VMCS(Memory(4096), 0).write("guest_rip", 0)
    with pytest.raises(ValueError, match="guest kernel in ring 2, allowed: 1 or 3"):
        TrapAndEmulate(guest("popf"), ring=2)


def test_the_vmcs_is_memory():
    monitor = Hardware(guest("push_cs"))
    monitor.run()
    vmcs = monitor.vmcs
    assert vmcs.read("guest_eip") == monitor.v.eip - 1  # saved at the exit, before HLT was emulated
    assert vmcs.read("guest_cs_selector") == 8 and vmcs.read("guest_gdtr_limit") == 0x37
    assert monitor.host.memory.copy(vmcs.address, 4) == b"\1\0\0\0"


# Paravirtualization


@pytest.mark.parametrize("name", PORTS)
def test_the_port_prints_what_the_guest_prints(name):
    monitor = Paravirtual(ported(name))
    assert monitor.run() == "halt" and monitor.console == NATIVE[name]
    assert "+        int 0x82" in diff(name) and "-        popfd" in diff(name)


@pytest.mark.parametrize("name", GUESTS)
def test_an_unmodified_guest_fails(name):
    monitor = Paravirtual(guest(name))
    assert monitor.run() == "shutdown" and monitor.console == ""
    assert [(exit.step, exit.reason) for exit in monitor.exits] == [(0, "reflect #GP")]  # at its first CLI


def tables():
    """A guest of eight pages from 0x8000: directory, table, and pages; the table is mapped read-only."""
    memory = Memory(0x20000)
    memory.write(0x8000, 0x9007, 4)
    for i in range(8):
        memory.write(0x9000 + 4 * i, 0x8000 + 0x1000 * i | (5 if i < 2 else 7), 4)
    types = PageTypes(memory, 0x8000, 0x10000, own=0x1003)
    types.pin(0x8000)
    return memory, types


@pytest.mark.parametrize(
    "batch, why",
    [
        ([(0x9008, 0x9007)], "0x9000 is a page table, and would be writable"),
        ([(0x9008, 0x8003)], "0x8000 is a page table, and would be writable"),
        ([(0x9008, 0x1007)], "0x1000 is not a page of this guest"),
        ([(0x9008, 0x10007)], "0x10000 is not a page of this guest"),
        ([(0xA008, 0xA007)], "entry 0xa008: not in a page table"),
        ([(0x9009, 0xA007)], "entry 0x9009: not in a page table"),
        ([(0x8004, 0xA007)], "0xa000 is a page table, and would be writable"),  # data as a table, still mapped writable
        ([(0x8004, 0xA087)], "large pages are not allowed"),
        ([(0x8FFC, 0)], "the last one is the monitor's"),
        ([(0x9008, 0xB007), (0x900C, 0xC007), (0x9010, 0x9007)], "would be writable"),
    ],
)
def test_hostile_batches_are_refused_and_leave_nothing_behind(batch, why):
    memory, types = tables()
    before = bytes(memory.bytes)
    with pytest.raises(Refused, match=why):
        types.update(batch)
    assert bytes(memory.bytes) == before
    types.update([(0x9008, 0xA005), (0x9014, 0)])  # and the next honest one is done
    assert memory.read(0x9008, 4) == 0xA005


def test_a_refused_hypercall_tells_the_guest():
    text = """
        mov esp, 0x1900
        mov ebx, shared
        mov eax, 0
        int 0x82                        ; set_shared
        mov ebx, 0x123000
        mov eax, 5
        int 0x82                        ; new_base: not a page of this guest
        hlt
shared: dd 1, 0, 0
        space 4096
    """
    monitor = Paravirtual(make("hostile", text))
    assert monitor.run() == "shutdown" and monitor.v.regs[0] == 0xFFFFFFEA


# Page tables that change

PAGING = """
        cli
        lgdt [gdtr]
        lidt [idtr]
        mov esp, 0x2000
        mov edi, table
        mov eax, 3
        mov ecx, end >> 12
map:    stosd
        add eax, 0x1000
        loop map
        mov eax, directory
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
{body}
        hlt
page:   inc dword ptr [faults]
        push eax
        mov eax, cr2
        xor [faults + 4], eax
        mov eax, [esp + 4]
        add [faults + 8], eax           ; error codes
        pop eax
        add esp, 4
        add dword ptr [esp], 6
        iretd
        org 0x3000
idtr:   dw 8 * 15 - 1
        dd idt
faults: dd 0, 0, 0
gdtr:   dw 23
        dd gdt
        align 8
gdt:    dd 0, 0, 0xffff, 0x00cf9b00, 0xffff, 0x00cf9300
idt:    space 8 * 14
        dd 0x80000 | page & 0xffff, 0x8e00
        org 0x4000
directory: dd table + 7, other + 7
        org 0x5000
table:  space 4096
other:  space 4096
frames: space 4 * 4096
end:
"""


def random_paging(seed):
    rng = random.Random(seed)
    lines = []
    for _ in range(50):
        page = rng.randrange(6)
        address = 0x400000 + 0x1000 * page + 4 * rng.randrange(8)
        kind = rng.randrange(8)
        if kind < 3:  # a mapping, sometimes of the page tables themselves
            entry = 0x5000 + 0x1000 * rng.randrange(6) | rng.choice((0, 1, 3, 3, 3, 7, 0x63))
            lines += [f"mov dword ptr [other + {4 * page}], {entry}", f"invlpg [{0x400000 + 0x1000 * page}]"]
        elif kind < 5:
            lines.append(f"mov ebx, [{address}]")
        elif kind < 6 and rng.random() < 0.8:
            lines += [f"mov [{address + 64}], ebp", "mov edx, cr3", "mov cr3, edx"]  # it may have hit a page table
        elif kind < 7:
            lines += ["mov edx, cr0", "xor edx, 0x10000", "mov cr0, edx"]
        else:
            lines += [
                f"mov dword ptr [directory + 4], other + {rng.choice((1, 3, 3, 7))}",
                "mov edx, cr3",
                "mov cr3, edx",
            ]
    return make(f"paging {seed}", PAGING.replace("{body}", "\n".join(lines)))


@pytest.mark.parametrize("seed", range(40))
def test_random_changes_of_page_tables(seed):
    program = random_paging(seed)
    machine, end = natively(program)
    assert end == "halt"
    for monitor in (TrapAndEmulate, *RIGHT):
        other = monitor(program)
        assert other.run(50_000) == end
        assert other.state() == machine.state()

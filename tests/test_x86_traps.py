"""Delivery of traps and interrupts, paging, and what a monitor needs: undelivered traps, other mappings, snapshots."""

import random

import pytest
from test_x86_oracle import CODE, DATA, STACK, TABLE, processor, program, start

from vlib.x86.alu import IF
from vlib.x86.assembler import assemble
from vlib.x86.board import CYCLES_PER_TICK, NEVER, Board
from vlib.x86.cpu import CPU
from vlib.x86.decoder import CS, DS, ESP, SS
from vlib.x86.memory import ACCESSED, DIRTY, Memory, PageFault, Paging
from vlib.x86.segments import Descriptor, Segment
from vlib.x86.traps import Trap

IDT, TASK, HANDLER = 0x5000, 0x700, 0x1800


def gate(cpu, vector, selector=0x08, offset=HANDLER, access=0x8E):
    cpu.memory.write(IDT + 8 * vector, offset & 0xFFFF | selector << 16 | access << 40 | (offset >> 16) << 48, 8)


def machine(text, cpl=3, flags=2 | IF):
    """A processor at CPL 3 (or 0) with a task state, an IDT at 0x5000, and a program."""
    cpu = processor(cpl, flags)
    cpu.memory.write(TABLE, 0x67, 4)
    cpu.idtr, cpu.tr = (IDT, 0x7FF), Segment(0x48, Descriptor(TASK, 0x67, 0x8B, 0))
    cpu.memory.write(TASK + 4, STACK + 0xF00, 4)
    cpu.memory.write(TASK + 8, 0x10, 2)
    cpu.regs[ESP] = STACK
    cpu.memory.load(CODE, assemble(text, origin=CODE).code)
    return cpu


def stack(cpu, words):
    return [cpu.memory.read(cpu.regs[ESP] + 4 * i, 4) for i in range(words)]


def test_int_from_ring_3_switches_stacks():
    cpu = machine("nop\n int 0x30")
    gate(cpu, 0x30, access=0xEE)
    cpu.run(2)
    trap_free = cpu.step()  # the handler's page holds zeros: add [eax], al
    assert trap_free is None or trap_free.vector != 0x30
    cpu = machine("nop\n int 0x30")
    gate(cpu, 0x30, access=0xEE)
    cpu.step()
    assert cpu.step().vector == 0x30
    assert (cpu.cpl, cpu.eip, cpu.segs[CS].selector, cpu.segs[SS].selector) == (0, HANDLER, 0x08, 0x10)
    assert cpu.regs[ESP] == STACK + 0xF00 - 20 and not cpu.flags & IF
    assert stack(cpu, 5) == [CODE + 3, 0x1B, 2 | IF, STACK, 0x23]


def test_trap_gates_leave_interrupts_on_and_same_level_keeps_the_stack():
    cpu = machine("int 0x31", cpl=0)
    gate(cpu, 0x31, access=0x8F)
    cpu.step()
    assert cpu.flags & IF and cpu.regs[ESP] == STACK - 12
    assert stack(cpu, 3) == [CODE + 2, 0x08, 2 | IF]


def test_faults_push_an_error_code_and_the_instruction():
    cpu = machine("nop\n mov [0x9000], eax")
    gate(cpu, 14)
    cpu.memory.write(TABLE + 4 * 9, 0x9000 | 1, 4)  # supervisor, read only
    assert cpu.run(2) == "limit"
    assert cpu.cr[2] == 0x9000 and stack(cpu, 2) == [7, CODE + 1]
    cpu = machine("mov eax, [0x20000]")
    gate(cpu, 14)
    cpu.step()
    assert cpu.cr[2] == 0x20000 and stack(cpu, 2) == [4, CODE]


@pytest.mark.parametrize(
    ("text", "setup", "expected"),
    [
        ("int 0x30", {"access": 0x8E}, (13, 0x30 * 8 + 2)),  # a gate that ring 3 may not use
        ("int 0x30", {"access": 0x6E}, (11, 0x30 * 8 + 2)),  # not present
        ("int 0x30", {"access": 0xE5}, (13, 0x30 * 8 + 2)),  # a task gate
        ("int 0x30", {"access": 0xEE, "selector": 0}, (13, 0)),
        ("int 0x30", {"access": 0xEE, "selector": 0x10}, (13, 0x10)),  # data
        ("int 0x30", {"access": 0xEE, "selector": 0xFF8}, (13, 0xFF8)),
    ],
)
def test_bad_gates(text, setup, expected):
    cpu = machine(text)
    gate(cpu, 0x30, **setup)
    gate(cpu, expected[0])
    cpu.run(1)
    assert cpu.eip == HANDLER and stack(cpu, 2) == [expected[1], CODE]


def test_a_bad_stack_for_ring_0_is_an_invalid_task_state():
    cpu = machine("ud2")
    gate(cpu, 6)
    gate(cpu, 10, selector=0x40)  # conforming: runs on the user's stack
    cpu.memory.write(TASK + 8, 0x23, 2)
    cpu.run(1)
    assert (cpu.eip, cpu.cpl, stack(cpu, 2)) == (HANDLER, 3, [0x20, CODE])


def test_double_and_triple_faults():
    cpu = machine("ud2\n", cpl=0)
    cpu.memory.write(IDT + 8 * 6, 0, 8)
    gate(cpu, 8)
    cpu.run(1)  # #UD has no gate: #GP; that has none either: #DF
    assert cpu.eip == HANDLER and stack(cpu, 2) == [0, CODE]
    cpu = machine("ud2\n", cpl=0)
    assert cpu.run(5) == "shutdown" and cpu.shut_down and cpu.eip == CODE
    assert cpu.run(5) == "shutdown" and cpu.steps == 1


def test_page_fault_during_delivery():
    cpu = machine("ud2", cpl=0)
    gate(cpu, 6)
    gate(cpu, 14)
    gate(cpu, 8)
    cpu.regs[ESP] = 0x20000  # no page there: #PF, and again: #DF, and again: shutdown
    assert cpu.run(3) == "shutdown" and cpu.cr[2] == 0x20000 - 4


def test_iret_to_ring_3_clears_the_kernel_s_segments():
    cpu = machine(
        "push 0x23\n push 0x4000\n push 0x3202\n push 0x1b\n push user\n iretd\n user: mov eax, [0x2000]", cpl=0
    )
    gate(cpu, 13, selector=0x40)
    cpu.run(6)
    assert cpu.cpl == 3 and cpu.segs[DS].selector == 0 and cpu.flags == 0x3202
    trap = cpu.step()
    assert (trap.vector, trap.error) == (13, 0)


def test_limits_types_and_null_segments():
    small = Segment(0x2B, Descriptor(DATA, 0x7FF, 0xF3, 4))
    readonly, down = Descriptor(0, 0xFFFFFFFF, 0xF1, 12), Descriptor(0, 0xFFF, 0xF7, 4)
    for segment, text, fault in (
        (small, "mov eax, [0x7fc]", None),
        (small, "mov eax, [0x7fd]", 13),
        (small, "mov byte ptr [0x7ff], 1", None),
        (Segment(0x33, readonly), "mov eax, [0x2000]", None),
        (Segment(0x33, readonly), "mov [0x2000], eax", 13),
        (Segment(0x33, down), "mov eax, [0x2000]", None),
        (Segment(0x33, down), "mov eax, [0xffc]", 13),
        (Segment(0, None), "mov eax, [0x2000]", 13),
    ):
        cpu = machine(text)
        cpu.set_segment(DS, segment)
        trap = cpu.execute()
        assert (trap and trap.vector) == fault, text
    cpu = machine("push eax")
    cpu.set_segment(SS, Segment(0x2B, Descriptor(0, 0xFFF, 0xF3, 4)))
    trap = cpu.execute()
    assert (trap.vector, trap.error, cpu.regs[ESP]) == (12, 0, STACK)


def test_executing_up_to_a_trap_changes_nothing_that_a_step_would_not():
    """After a trap the state is that before the instruction: what a monitor builds on."""
    rng, traps = random.Random(5), 0
    for _ in range(400):
        regs, flags = start(rng)
        cpu = processor(rng.choice((0, 3)), flags, regs)
        code = program(rng)
        cpu.memory.load(CODE, code)
        for _ in range(20):
            if not CODE <= cpu.eip < CODE + len(code):
                break
            before = cpu.save()
            trap = cpu.execute()
            if trap:
                assert cpu.save() == before and trap.eip == before["eip"]
                traps += 1
                break
    assert traps > 100


def test_execute_stops_at_the_limit_and_counts():
    cpu = machine("again: inc eax\n jmp again")
    assert cpu.execute(5) is None and (cpu.steps, cpu.cycles, cpu.regs[0]) == (5, 5, 3)
    cpu.memory.load(CODE + 1, b"\xcd\x30")
    trap = cpu.execute(9)
    assert (trap.vector, trap.software, trap.eip, trap.next) == (0x30, True, CODE + 1, CODE + 3)
    assert cpu.eip == CODE + 1 and cpu.steps in (5, 6)


# Interrupts


def ticking(text, flags=2 | IF):
    cpu = machine(text, cpl=0, flags=flags)
    cpu.idtr = (IDT, 0x7FF)
    gate(cpu, 0x20)
    cpu.memory.load(HANDLER, assemble("inc ebx\n mov al, 0x20\n out 0x20, al\n iretd").code)
    for port, value in (
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 4),
        (0x21, 1),
        (0x21, 0xFE),
        (0x43, 0x34),
        (0x40, 10),
        (0x40, 0),
    ):
        cpu.board.output(port, 1, value, 0)
    return cpu


def test_the_timer_interrupts_each_period():
    cpu = ticking("again: inc ecx\n jmp again")
    cpu.run(1000)
    assert cpu.regs[3] == 1000 // (10 * CYCLES_PER_TICK)
    assert cpu.cycles == 1000


def test_hlt_sleeps_until_the_tick():
    cpu = ticking("again: hlt\n jmp again")
    assert cpu.run(60) == "limit"
    assert cpu.regs[3] == 10 and cpu.cycles >= 1600


def test_hlt_without_interrupts_is_the_end():
    cpu = ticking("cli\n hlt\n nop")
    assert cpu.run(100) == "halt" and cpu.steps == 2
    assert cpu.run(100) == "halt" and cpu.step() is None and cpu.steps == 2


def test_sti_holds_off_one_instruction():
    cpu = ticking(
        "mov ecx, 100\n wait: loop wait\n mov ecx, 100\n again: loop again\n sti\n inc eax\n inc eax", flags=2
    )
    cpu.run(203)
    assert cpu.regs[3] == 0 and cpu.board.requested
    cpu.run(1)
    assert cpu.regs[0] == 1 and cpu.eip < HANDLER
    cpu.run(1)
    assert cpu.regs[3] == 1 and cpu.regs[0] == 1


def test_no_second_interrupt_before_the_end_of_the_first():
    board = Board()
    for port, value in ((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xFE), (0x40, 1), (0x40, 0)):
        board.output(port, 1, value, 0)
    board.advance(CYCLES_PER_TICK)
    assert board.interrupting() and board.acknowledge() == 0x20
    board.advance(5 * CYCLES_PER_TICK)
    assert not board.interrupting() and board.deadline == 6 * CYCLES_PER_TICK
    board.output(0x20, 1, 0x20, 0)
    assert board.interrupting()
    board.output(0x21, 1, 0xFF, 0)
    assert not board.interrupting() and board.input(0x21, 1, 0) == 0xFF
    board.output(0x43, 1, 0x34, 0)
    assert board.deadline == NEVER


# Paging


def test_rings_0_to_2_are_all_supervisor_to_a_page():
    for cpl, allowed in ((0, True), (1, True), (2, True), (3, False)):
        cpu = machine("mov eax, [0x9000]", cpl=0 if cpl < 3 else 3)
        cpu.memory.write(TABLE + 4 * 9, 0x9000 | 1, 4)
        cpu.set_cpl(cpl)
        assert (cpu.execute() is None) == allowed


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("bits", range(8))
@pytest.mark.parametrize("protect", [False, True])
def test_all_rights_of_a_page(user, write, bits, protect):
    memory = Memory(0x4000)
    memory.write(0, 0x1000 | 7, 4)
    memory.write(0x1000 + 4 * 3, 0x2000 | bits, 4)
    paging = Paging(memory)
    paging.enabled, paging.write_protect = True, protect
    present, writable, for_user = bits & 1, bits & 2, bits & 4
    allowed = present and (for_user or not user) and (not write or writable or (not user and not protect))
    if allowed:
        assert paging.translate(0x3123, user, write) == 0x2000
        assert memory.read(0x1000 + 12, 4) == 0x2000 | bits | ACCESSED | DIRTY * write
        assert memory.read(0, 4) == 0x1000 | 7 | ACCESSED
        assert paging.references == 2
    else:
        with pytest.raises(PageFault) as fault:
            paging.translate(0x3123, user, write)
        assert fault.value.error == bool(present) | 2 * write | 4 * user
        assert memory.read(0x1000 + 12, 4) == 0x2000 | bits


def test_large_pages():
    memory = Memory(0x1000)
    memory.write(4, 0x00800000 | 0x83, 4)
    paging = Paging(memory)
    paging.enabled = paging.large = True
    assert paging.translate(0x00403456, False, True) == 0x00803000
    assert memory.read(4, 4) == 0x008000E3 and paging.references == 1


def test_a_stale_translation_lasts_until_it_is_flushed():
    cpu = machine("mov eax, [0x2000]\n mov eax, [0x2000]\n invlpg [0x2000]\n mov eax, [0x2000]", cpl=0)
    cpu.memory.write(0x2000, 111, 4)
    cpu.memory.write(0xA000, 222, 4)
    cpu.execute()
    cpu.memory.write(TABLE + 8, 0xA000 | 7, 4)
    cpu.execute()
    assert cpu.regs[0] == 111
    cpu.execute(2)
    assert cpu.regs[0] == 222


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("mov eax, [0x9000]", 4), ("mov [0x9000], eax", 6), ("add eax, [0x9000]", 4), ("add [0x9000], eax", 6),
        ("cmp [0x9000], eax", 4), ("inc dword ptr [0x9000]", 6), ("xchg eax, [0x9000]", 6), ("shl byte ptr [0x9000], 1", 6),
        ("push dword ptr [0x9000]", 4), ("pop dword ptr [0x9000]", 6), ("test [0x9000], al", 4), ("sgdt [0x9000]", 6),
    ],
)  # fmt: skip
def test_what_is_read_to_be_written_faults_as_a_write(text, error):
    cpu = machine(text)
    cpu.memory.write(TABLE + 4 * 9, 0, 4)
    trap = cpu.execute()
    assert (trap.vector, trap.error, trap.address) == (14, error, 0x9000)


def test_an_access_across_pages_faults_before_it_writes():
    cpu = machine("mov [0x2ffe], eax")
    cpu.regs[0] = 0x44332211
    cpu.memory.write(TABLE + 12, 0, 4)
    trap = cpu.execute()
    assert (trap.vector, trap.address, trap.error) == (14, 0x3000, 6) and cpu.memory.read(0x2FFC, 4) == 0
    cpu.memory.write(TABLE + 12, 0xA000 | 7, 4)
    assert cpu.execute() is None
    assert cpu.memory.read(0x2FFE, 2) == 0x2211 and cpu.memory.read(0xA000, 2) == 0x4433


def test_code_across_pages_and_code_that_changes():
    cpu = machine("nop")
    cpu.memory.write(TABLE + 8, 0xA000 | 7, 4)
    cpu.memory.load(0x1FFE, b"\xb8\x01")
    cpu.memory.load(0xA000, b"\0\0\0\xeb\xf9")  # mov eax, 1; jmp back
    cpu.eip = 0x1FFE
    cpu.execute(2)
    assert cpu.regs[0] == 1 and cpu.eip == 0x1FFE
    cpu.memory.write(0xA000, 2, 1)
    cpu.execute(2)
    assert cpu.regs[0] == 0x201
    cpu = machine("again: mov eax, 1\n inc byte ptr [again + 1]\n jmp again", cpl=0)
    cpu.memory.write(TABLE + 4, CODE | 7, 4)
    cpu.execute(31)
    assert cpu.regs[0] == 11


def test_fifteen_bytes_are_the_longest_instruction():
    cpu = machine("nop")
    cpu.memory.load(CODE, b"\x3e" * 14 + b"\x90" + b"\x3e" * 15 + b"\x90")
    assert cpu.execute() is None and cpu.eip == CODE + 15
    trap = cpu.execute()
    assert (trap.vector, trap.error, trap.eip) == (13, 0, CODE + 15)
    cpu.memory.load(CODE + 0xFF0, b"\x3e" * 16)
    cpu.memory.load(0x2000, b"\x3e" * 16)
    cpu.eip = CODE + 0xFF8
    assert cpu.execute().vector == 13
    cpu.memory.load(CODE + 0xFFF, b"\x0f")
    cpu.memory.load(0x2000, b"\xff")
    cpu.eip = CODE + 0xFFF
    assert cpu.execute().vector == 6


def test_watching_a_page_does_not_pile_up():
    cpu = machine("nop")
    cpu.memory.load(0x1FFE, b"\xb8\x01\0\0\0")
    for _ in range(50):
        cpu.eip = 0x1FFE
        cpu.execute()
        cpu.set_cpl(3)
    assert max(len(watchers) for watchers in cpu.memory.watchers.values()) == 1


# What a monitor needs


def test_a_guest_runs_through_another_mapping():
    """Guest address 0 lies at 0x4000 of the host: by page tables of the host (shadow), or by a second translation (nested)."""
    text = "mov eax, [0x1000]\n inc eax\n mov [0x1004], eax"
    shadow = Memory(0x8000)
    for page in range(2):
        shadow.write(0x1000 + 4 * page, 0x4000 + 0x1000 * page | 7, 4)
    shadow.write(0, 0x1000 | 7, 4)
    nested = Memory(0x8000)
    for memory in (shadow, nested):
        memory.load(0x4000, assemble(text).code)
        memory.write(0x5000, 41, 4)
    one, two = CPU(shadow), CPU(nested)
    one.set_cr(0, 0x80000011)
    two.paging.nested = lambda page: page + 0x4000
    for cpu in (one, two):
        assert cpu.execute(3) is None and cpu.memory.read(0x5004, 4) == 42


def test_nested_walks_translate_every_reference():
    memory, seen = Memory(0x10000), []
    memory.write(0x8000, 0x1000 | 7, 4)
    memory.write(0x9000 + 20, 0x2000 | 7, 4)
    paging = Paging(memory)
    paging.enabled = True
    paging.nested = lambda page: (seen.append(page), page + 0x8000)[1]
    assert paging.translate(0x5123, True, False) == 0xA000
    assert seen == [0, 0x1000, 0x2000]

    class Violation(Trap):
        pass

    def refuse(page):
        raise Violation(-1)

    cpu = CPU(memory)
    cpu.paging.nested = refuse
    assert isinstance(cpu.execute(), Violation)


def test_two_processors_in_one_memory_see_each_other_s_writes():
    memory = Memory(0x3000)
    memory.load(0, assemble("again: mov eax, 1\n jmp again").code)
    memory.load(0x1000, assemble("mov byte ptr [1], 7").code)
    one, two = CPU(memory), CPU(memory)
    two.eip = 0x1000
    one.execute(2)
    two.execute()
    one.execute()
    assert one.regs[0] == 7


def test_what_is_not_there_reads_as_ones():
    cpu = CPU(Memory(0x1000))
    cpu.memory.load(
        0, assemble("mov eax, [0x5000]\n mov [0x5000], eax\n mov ebx, [0xffe]\n mov edx, 0x7000\n jmp edx").code
    )
    assert cpu.execute(5) is None and cpu.regs[0] == 0xFFFFFFFF and cpu.regs[3] == 0xFFFF0000
    assert cpu.execute().vector == 6


@pytest.mark.parametrize("size", [0, -4096, 100, 1 << 33])
def test_memory_is_whole_pages(size):
    with pytest.raises(ValueError, match="allowed: whole pages of 4096"):
        Memory(size)


def test_a_program_must_fit_into_memory():
    with pytest.raises(ValueError, match="4 bytes at 0xffe, allowed: within 4096 bytes of memory"):
        Memory(4096).load(0xFFE, b"1234")

"""The guest programs: what they print, how they get there, and the kernel on QEMU's PC as well."""

import ast
import os
import shutil
import subprocess
import time

import pytest

from vlib.guests import GUESTS, HOLES, KERNEL, NATIVE, boot, finish, guest, make
from vlib.x86.assembler import assemble
from vlib.x86.table import SENSITIVE_UNPRIVILEGED


@pytest.mark.parametrize("name", GUESTS)
def test_prints_the_truth_on_the_bare_machine(name):
    cpu = boot(guest(name))
    assert cpu.run(20_000) == "halt"
    assert cpu.board.console.decode() == NATIVE[name]


def test_every_hole_uses_its_instruction_and_no_other_guest_needs_more_than_a_page_of_text():
    for name, text in HOLES.items():
        mnemonic = {"push_cs": "push cs", "mov_ss": "mov eax, ss"}.get(name, name)
        assert mnemonic in text
    assert {n.removesuffix("d") for n in SENSITIVE_UNPRIVILEGED} >= {
        "popf",
        "pushf",
        "sgdt",
        "sidt",
        "str",
        "sldt",
        "smsw",
    }
    instructions = [line for line in KERNEL.splitlines() if line.split(";")[0].strip()]
    assert len(instructions) < 170


def trace(step):
    cpu, states = boot(guest("kernel")), []
    while not cpu.halted or cpu.flags & 0x200:
        step(cpu)
        states.append((cpu.steps, cpu.cycles, cpu.eip, cpu.flags, tuple(cpu.regs)))
    return states


def test_single_steps_and_a_long_run_are_the_same():
    def seven(cpu):
        cpu.run(7)

    single = trace(lambda cpu: cpu.step())
    by_sevens = trace(seven)
    assert by_sevens == [state for state in single if state[0] % 7 == 0 or state is single[-1]]


def test_the_kernel_switches_serves_and_pages():
    cpu, seen, switches = boot(guest("kernel")), [], 0
    while not cpu.halted:
        before = cpu.cr[3]
        trap = cpu.step()
        switches += cpu.cr[3] != before
        if trap is not None:
            seen.append((trap.vector, trap.address))
    assert seen.count((0x80, None)) == 16  # each process: six letters, its count, its end
    assert seen.count((14, 0x401000)) == 2 and len(seen) == 18
    assert switches == 4  # the first; AB; BA; and the end of A


def test_a_snapshot_goes_on_as_if_nothing_had_been():
    cpu = boot(guest("kernel"))
    cpu.run(2000)
    state, memory = cpu.save(), bytes(cpu.memory.bytes)
    assert ast.literal_eval(repr(state)) == state  # plain data
    cpu.run(20_000)
    other = boot(guest("kernel"))
    other.memory.load(0, memory)
    other.restore(state)
    assert other.run(20_000) == "halt"
    assert other.board.console == cpu.board.console and other.save() == cpu.save()


def test_a_guest_that_does_not_end_is_named_with_its_line():
    triple = make("triple", "nop\n lidt [none]\n ud2\n none: dd 0, 0")
    with pytest.raises(ValueError, match="triple shut down by a triple fault, at line 3: ud2"):
        finish(boot(triple), triple)
    wild = make("wild", "mov eax, 0x5000\n jmp eax")
    with pytest.raises(ValueError, match="wild shut down by a triple fault, at 0x5000, outside the program"):
        finish(boot(wild), wild)


def test_unknown_guest():
    with pytest.raises(ValueError, match="guest 'minix', allowed: kernel, popf"):
        guest("minix")


@pytest.mark.skipif(not shutil.which("qemu-system-i386"), reason="needs qemu-system-i386")
def test_the_kernel_boots_on_a_real_pc_model(tmp_path):
    """QEMU loads it by the Multiboot header; where the ticks fall differs, what each process prints does not."""
    base = 0x100000
    program = assemble(KERNEL, origin=base + 0x1000)
    end = base + 0x1000 + len(program.code)
    magic, flags = 0x1BADB002, 0x10000
    header = [magic, flags, -(magic + flags) & 0xFFFFFFFF, base, base, end, end, program.origin]
    image = b"".join(word.to_bytes(4, "little") for word in header).ljust(0x1000, b"\0") + program.code
    (tmp_path / "kernel").write_bytes(image)
    console = tmp_path / "console"
    command = ["qemu-system-i386", "-accel", "tcg", "-m", "16", "-display", "none", "-vga", "none", "-net", "none"]
    command += ["-no-reboot", "-debugcon", f"file:{console}", "-kernel", str(tmp_path / "kernel")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        for _ in range(300):
            text = console.read_bytes() if os.path.exists(console) else b""
            if text.endswith(b"\n") or process.poll() is not None:
                break
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    assert text.endswith(b"6\n")
    assert sorted(text) == sorted(NATIVE["kernel"].encode())

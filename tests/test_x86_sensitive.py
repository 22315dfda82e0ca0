"""Each privileged and each sensitive instruction by itself, at CPL 0 and 3, in the model and in Unicorn."""

import pytest
from test_x86_oracle import CODE, DATA, DIRECTORY, FLAT, STACK, Oracle, difference, model, processor

from vlib.x86.alu import IF, IOPL
from vlib.x86.assembler import assemble
from vlib.x86.segments import Descriptor, Segment
from vlib.x86.system import TSD, UMIP
from vlib.x86.table import IOPL_SENSITIVE, PRIVILEGED, SENSITIVE_UNPRIVILEGED

REGS = [0, 0, 0, DATA, STACK, DATA, DATA, DATA]

# What each does at CPL 0; at CPL 3 every one is #GP(0).
PRIVILEGED_CASES = {
    "lgdt": "sgdt [0x2000]\n lgdt [0x2000]\n sgdt [0x2008]",
    "lidt": "mov word ptr [0x2000], 0x77\n mov dword ptr [0x2002], 0x1234\n lidt [0x2000]\n sidt [0x2008]",
    "lldt": "lldt ax\n sldt ecx",
    "ltr": "ltr ax",
    "lmsw": "mov eax, 0xf\n lmsw ax\n smsw cx",
    "clts": "mov eax, 0x80010019\n mov cr0, eax\n clts\n mov ecx, cr0",
    "hlt": "mov eax, 1\n hlt",
    "invd": "invd",
    "wbinvd": "wbinvd",
    "invlpg": "mov eax, [0x2000]\n invlpg [0x2000]\n mov eax, [0x2000]",
    "rdmsr": "mov ecx, 0x174\n rdmsr",
    "wrmsr": "mov ecx, 0x176\n mov eax, 0x1234\n wrmsr\n mov eax, 0\n rdmsr",
    "mov_cr": "mov eax, cr0\n mov cr0, eax\n mov ecx, cr3\n mov cr3, ecx\n mov cr2, edi\n mov esi, cr2",
    "mov_dr": "mov eax, 0x1234\n mov dr0, eax\n mov ecx, dr0",
}
BARE = {"ltr": "ltr ax", "lldt": "lldt ax", "mov_cr": "mov cr3, eax", "mov_dr": "mov dr0, eax", "lmsw": "lmsw ax"}

# Programs that do not fault at CPL 3 and yet tell, or change, what a hypervisor owns.
SENSITIVE_CASES = {
    "sgdt": "sgdt [0x2000]",
    "sidt": "sidt [0x2000]",
    "sldt": "sldt eax\n sldt [0x2000]",
    "smsw": "smsw ax\n smsw [0x2000]",
    "str": "str eax\n str [0x2000]",
    "pushfd": "pushfd\n pop eax",
    "popfd": "push 0x3ed7\n popfd\n pushfd\n pop eax\n push 2\n popfd",
    "lar": "mov ecx, 0x8\n lar eax, ecx\n mov ecx, 0x1b\n lar edx, ecx\n mov ecx, 0x23\n lar esi, ecx\n mov ecx, 0x4b\n lar edi, ecx",
    "lsl": "mov ecx, 0x8\n lsl eax, ecx\n mov ecx, 0x1b\n lsl edx, ecx\n mov ecx, 0x23\n lsl esi, ecx\n mov ecx, 0x4b\n lsl edi, ecx",
    "verr": "mov ecx, 0x10\n verr cx\n setz al\n mov ecx, 0x23\n verr cx\n setz ah\n mov ecx, 0x3b\n verr cx\n setz dl",
    "verw": "mov ecx, 0x10\n verw cx\n setz al\n mov ecx, 0x23\n verw cx\n setz ah\n mov ecx, 0x33\n verw cx\n setz dl",
    "mov_seg": "mov eax, cs\n mov ecx, ss\n mov [0x2000], ds\n mov es, cx",
    "push_seg": "push cs\n pop eax\n push ss\n pop ecx",
    "pop_seg": "push ds\n pop es\n push 0x2b\n pop fs\n mov eax, fs:[4]",
    "callf": "mov ax, cs\n mov [0x2004], ax\n mov dword ptr [0x2000], next\n callf [0x2000]\n next: pop ecx\n pop edx",
    "jmpf": "mov ax, cs\n mov [0x2004], ax\n mov dword ptr [0x2000], next\n jmpf [0x2000]\n nop\n next: mov ecx, cs",
    "retf": "mov eax, cs\n push eax\n push next\n retf\n nop\n next: mov ecx, cs",
    "iretd": "push 0x3ed7\n push cs\n push next\n iretd\n nop\n next: pushfd\n pop eax\n push 2\n popfd",
    "int": "int 0x80",
}


@pytest.fixture(scope="module")
def oracle():
    return Oracle()


def code(text):
    return assemble(text, origin=CODE).code


def test_every_instruction_has_its_case():
    assert set(PRIVILEGED_CASES) == set(PRIVILEGED) and set(SENSITIVE_CASES) == set(SENSITIVE_UNPRIVILEGED)


@pytest.mark.parametrize("name", PRIVILEGED)
def test_privileged_instructions_trap_outside_of_ring_0(oracle, name):
    text = BARE.get(name, PRIVILEGED_CASES[name])
    ours = model(code(text), REGS, 2, 3)
    assert ours["vector"] == 13
    assert difference(oracle, code(text), REGS, 2, 3) == (13, [])
    for cpl in (1, 2):
        cpu = processor(0, regs=REGS)
        cpu.memory.load(CODE, code(text))
        cpu.set_cpl(cpl)  # ring 1 and 2 read supervisor pages, but are as unprivileged as ring 3
        trap = cpu.execute(10)
        assert (trap.vector, trap.error) == (13, 0)


@pytest.mark.parametrize("name", [name for name in PRIVILEGED if name != "ltr"])
def test_privileged_instructions_do_their_work_in_ring_0(oracle, name):
    assert difference(oracle, code(PRIVILEGED_CASES[name]), REGS, 2, 0) == (None, [])


@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize("name", SENSITIVE_UNPRIVILEGED)
@pytest.mark.parametrize("flags", [2, IF | 2, IF | IOPL | 2])
def test_sensitive_instructions_do_not_trap(oracle, name, cpl, flags):
    vector, wrong = difference(oracle, code(SENSITIVE_CASES[name]), REGS, flags, cpl)
    assert (vector, wrong) == (0x80 if name == "int" else None, [])


@pytest.mark.parametrize("iopl", range(4))
@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize("text", ["cli", "sti"])
def test_cli_and_sti_obey_iopl(oracle, text, cpl, iopl):
    expected = 13 if cpl > iopl else None
    assert difference(oracle, code(text), REGS, IF | 2 | iopl << 12, cpl) == (expected, [])


def test_popf_loses_if_without_a_word():
    for cpl, iopl, kept in ((0, 0, True), (3, 0, False), (3, 3, True), (1, 0, False), (1, 1, True)):
        cpu = processor(3 if cpl == 3 else 0, flags=2 | iopl << 12, regs=REGS)
        cpu.set_cpl(cpl)
        cpu.memory.load(CODE, code("push 0x202\n popfd"))
        assert cpu.execute(2) is None
        assert bool(cpu.flags & IF) == kept
        assert cpu.flags >> 12 & 3 == (0 if cpl == 0 else iopl)  # IOPL changes at CPL 0 only


@pytest.mark.parametrize("name", ["sgdt", "sidt", "sldt", "smsw", "str"])
def test_umip_closes_five_holes(name):
    cpu = processor(3, regs=REGS)
    cpu.set_cr(4, UMIP)
    cpu.memory.load(CODE, code(SENSITIVE_CASES[name]))
    assert cpu.execute().vector == 13


def test_tsd_makes_rdtsc_privileged():
    for cpl, flags in ((0, TSD), (3, 0)):
        cpu = processor(cpl)
        cpu.set_cr(4, flags)
        cpu.memory.load(CODE, code("nop\n nop\n rdtsc"))
        assert cpu.execute(3) is None and cpu.regs[0] == 2
    cpu.set_cr(4, TSD)
    cpu.eip = CODE + 2
    assert cpu.execute().vector == 13


def test_smsw_to_a_wide_register_gives_all_of_cr0():
    cpu = processor(3)
    cpu.memory.load(CODE, code("smsw eax"))
    cpu.execute()
    assert cpu.regs[0] == cpu.cr[0] == 0x80010011


@pytest.mark.parametrize("iopl", [0, 3])
def test_ports_obey_iopl_and_the_bit_map(iopl):
    assert set(IOPL_SENSITIVE) == {"cli", "sti", "in", "out"}
    for text in ("out 0xe9, al", "in al, 0xe9"):
        cpu = processor(3, flags=2 | iopl << 12)
        cpu.memory.load(CODE, code(text))
        trap = cpu.execute()
        assert (trap is None) == (iopl == 3)
    for limit, bits, allowed in ((0x67, 0, False), (0x200, 0, True), (0x200, 2, False)):
        cpu = processor(3)
        cpu.tr = Segment(0x48, Descriptor(0x3000, limit, 0x8B, 0))
        cpu.memory.write(0x3066, 0x68, 2)  # where the map begins
        cpu.memory.write(0x3068 + 0xE9 // 8, bits, 1)  # the bit of port 0xe9 is the second of its byte
        cpu.memory.load(CODE, code("out 0xe9, al"))
        assert (cpu.execute() is None) == allowed


@pytest.mark.parametrize(
    "text",
    [
        "mov eax, 0x80000010\n mov cr0, eax",  # without PE
        "mov eax, 0xa0010011\n mov cr0, eax",  # NW without CD
        "mov eax, 0x40000\n mov cr4, eax",  # a bit that this processor has not
        "mov ecx, 0x12345\n rdmsr",
        "mov eax, 0xff8\n ltr ax",
        "mov eax, 0x10\n ltr ax",
        "mov eax, 0x10\n lldt ax",
        "xor eax, eax\n ltr ax",
    ],
)
def test_refused_in_ring_0(text):
    assert model(code(text), REGS, 2, 0)["vector"] == 13


def test_ltr_marks_the_task_busy():
    cpu = processor(0, regs=[0x48, *REGS[1:]])
    cpu.memory.write(0x9000, 0x67, 4)  # let the processor write its tables
    cpu.memory.load(CODE, code("ltr ax\n str ecx\n ltr ax"))
    assert cpu.execute(2) is None and cpu.regs[1] == 0x48 and cpu.memory.read(0x48 + 5, 1) == 0x8B
    trap = cpu.execute()
    assert (trap.vector, trap.error) == (13, 0x48)


def test_vmcall_is_undefined_without_a_hypervisor_and_seen_by_the_hook():
    cpu = processor(3)
    cpu.memory.load(CODE, code("mov eax, 7\n vmcall\n cpuid"))
    cpu.execute()
    assert cpu.execute().vector == 6
    seen = []

    def hook(processor, insn):
        seen.append(insn.mnemonic)
        return insn.mnemonic == "vmcall"  # done; the others go on

    cpu.set_hook(hook)
    assert cpu.execute(2) is None
    assert seen == ["vmcall", "cpuid"] and cpu.regs[0] == 0x600 and cpu.eip == CODE + 10


def test_cpuid_gives_the_vendor():
    cpu = processor(3)
    cpu.memory.load(CODE, code("cpuid"))
    cpu.execute()
    name = b"".join(cpu.regs[i].to_bytes(4, "little") for i in (3, 2, 1))
    assert cpu.regs[0] == 1 and name == b"VirtualYouCa"


def test_the_oracle_starts_where_the_model_does(oracle):
    for cpl in (0, 3):
        ours, theirs = model(b"\x90", REGS, 2, cpl), oracle.run(b"\x90", REGS, 2, cpl)
        assert ours["segments"] == theirs["segments"] and ours["segments"][1] & 3 == cpl
    assert DIRECTORY < FLAT

"""The assembler against Keystone (LLVM), against the decoder, and against its own promises."""

import random

import pytest
from keystone import KS_ARCH_X86, KS_MODE_32, Ks, KsError
from test_x86_oracle import instruction

from vlib.x86.assembler import assemble
from vlib.x86.decoder import Imm, Mem, Rel, Undefined, decode
from vlib.x86.table import ENCODINGS, SENSITIVE_UNPRIVILEGED

# Keystone 0.9.2 takes the 16-bit forms of these (prefix 66), calls far jumps otherwise, and makes PREFETCH of NOP.
SIXTEEN = {"lgdt", "lidt", "sgdt", "sidt", "push_seg", "pop_seg", "mov_seg", "jmpf", "callf"}
FAR = {"callf": "lcall", "jmpf": "ljmp"}


def texts(count):
    rng, seen = random.Random(1), set()
    while len(seen) < count:
        code = instruction(rng, 0x1000, ENCODINGS)
        try:
            insn = decode(code)
        except (Undefined, IndexError):
            continue
        if insn.length == len(code) and not any(isinstance(o, Rel) for o in insn.operands):
            seen.add((str(insn), insn))
    return sorted(seen, key=str)


def meaning(insn):
    """An instruction without what its encoding alone decides."""
    return insn._replace(length=0, size=0)


def test_against_keystone_and_the_decoder():
    keystone, same, refused = Ks(KS_ARCH_X86, KS_MODE_32), 0, 0
    cases = texts(2500)
    for text, insn in cases:
        code = assemble(text).code
        ours = decode(code)
        assert str(ours) == text or str(decode(assemble(str(ours)).code)) == str(ours)
        name = insn.mnemonic
        try:
            theirs = bytes(keystone.asm(text.replace(name, FAR.get(name, name)))[0])
        except (KsError, TypeError):
            refused += 1
            continue
        if name in SIXTEEN and theirs[0] == 0x66 != code[0]:
            theirs = theirs[1:]
        if code == theirs:
            same += 1
        elif name not in ("nop", "jmpf", "callf") and not (name == "push" and insn.size == 2):
            assert meaning(ours) == meaning(decode(theirs)) or "*1" in text, text
            assert len(code) <= len(theirs), text
    assert same > 0.95 * len(cases) and refused < 0.03 * len(cases)


def test_jumps_grow_only_where_they_must():
    filler = "nop\n" * 126
    assert assemble(f"a: jmp b\n{filler}b: hlt").code[:2] == b"\xeb\x7e"
    assert assemble(f"a: jmp b\n{filler}nop\nnop\nb: hlt").code[:5] == b"\xe9\x80\0\0\0"
    # The inner jump grows, and so pushes the outer one's target out of reach.
    program = assemble(f"jmp end\n jne far\n{filler[:-20]}end: hlt\n{filler}far: hlt")
    assert program.code[:1] == b"\xeb" and decode(program.code[2:]).length == 6
    assert assemble("x: jmp x\n jmp x").code == b"\xeb\xfe\xeb\xfc"


def test_the_text_of_a_jump_is_the_jump():
    program = assemble("space 200\n here: jmp here\n jne here\n call there\n loop here\n there: jecxz here\n je 0")
    at = 200
    while at < len(program.code):
        insn = decode(program.code[at:])
        for text in (insn.text(), insn.text(at)):
            assert (
                assemble(f"org {at}\n{text}\n space 40").code[at : at + insn.length]
                == program.code[at : at + insn.length]
            )
        at += insn.length


def test_operands_in_either_order_where_the_order_says_nothing():
    assert assemble("xchg eax, [ebx]").code == assemble("xchg [ebx], eax").code == b"\x87\x03"
    assert assemble("test ecx, [ebx]").code == assemble("test [ebx], ecx").code == b"\x85\x0b"
    assert assemble("xchg eax, ebp").code == assemble("xchg ebp, eax").code == b"\x95"


def test_numbers_are_32_bits_wide():
    assert assemble("push 0x4000").code == b"\x68\0\x40\0\0"
    assert assemble("push word ptr [eax]").code == b"\x66\xff\x30"
    assert assemble("mov ax, 5").code == b"\x66\xb8\5\0"
    assert assemble("cwde").code == b"\x98"


def test_labels_constants_and_data():
    program = assemble(
        """
        size equ 3 * (1 + 1)         ; a comment; with a semicolon
        org 0x1010
        table:  dd table + 4, 'A', -1
                dw size, 0x1234
                db "a;b,c", 0
                align 8
        here:   mov eax, [table + ecx*4 + size]
                lea ebx, [table]
                mov byte ptr [eax], size
                dd here - table, $
        """,
        origin=0x1000,
    )
    data = program.code[0x10:]
    assert data[:12] == (0x1014).to_bytes(4, "little") + b"A\0\0\0" + b"\xff" * 4
    assert data[12:22] == b"\x06\0\x34\x12a;b,c\0"
    assert program.labels == {"table": 0x1010, "here": 0x1028}
    assert decode(data[0x18:]).operands[1] == Mem(3, -1, 1, 4, 0x1016, 4)
    assert decode(data[0x25:]).operands[1] == Imm(6)
    assert data[0x28:0x30] == (0x18).to_bytes(4, "little") + (0x1038).to_bytes(4, "little")
    assert program.where(0x1030) == "line 9: lea ebx, [table]"
    assert program.where(0x5000) == "0x5000, outside the program"


def test_a_name_may_be_used_before_it_is_known():
    assert assemble("push later\n later: hlt").code == b"\x68\x05\0\0\0\xf4"  # a label takes four bytes always
    assert assemble("call later\n later: ret").code == b"\xe8\0\0\0\0\xc3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nop\nfrob eax", "line 2: unknown mnemonic 'frob': frob eax"),
        ("mov eax", "line 1: bad operands for mov: mov eax"),
        ("mov eax, bl", "line 1: bad operands for mov: mov eax, bl"),
        ("mov [eax], 1", "line 1: say byte ptr, word ptr or dword ptr: mov [eax], 1"),
        ("mov al, 256", "line 1: bad operands for mov: mov al, 256"),
        ("mov eax, 0x100000000", "line 1: bad operands for mov: mov eax, 0x100000000"),
        ("a: nop\nb: nop\na: hlt", "line 3: 'a' is defined twice: a: hlt"),
        ("eax: nop", "line 1: 'eax' is a register: eax: nop"),
        ("jmp nowhere", "line 1: unknown name 'nowhere': jmp nowhere"),
        ("nop\njmp 0x9000", "line 2: jump to 0x9000, outside of the program, 0x0 to 0x6: jmp 0x9000"),
        ("loop far\nspace 200\nfar: nop", "line 1: jump of 202 bytes, allowed: about 127: loop far"),
        ("nop\nspace 5000", "line 2: program larger than 4096 bytes: space 5000"),
        ("db 300", "line 1: 0x12c does not fit 1 bytes: db 300"),
        (
            "mov eax, [eax + ebx + ecx]",
            "line 1: an address has at most two 32-bit registers: mov eax, [eax + ebx + ecx]",
        ),
        ("mov eax, [ebx*3]", "line 1: an address is base + index * 1, 2, 4 or 8 + displacement: mov eax, [ebx*3]"),
        ("mov eax, [esp*2]", "line 1: esp cannot be an index: mov eax, [esp*2]"),
        ("mov eax, 1 +", "line 1: bad expression '1 +': mov eax, 1 +"),
        ("mov eax, __import__('os')", "line 1: bad expression"),
        ("nop\norg 0", "line 2: org leaves -1 bytes, allowed: 0 or more: org 0"),
        ("mov eax, 1 << 99999999999", "line 1: bad expression '1 << 99999999999': mov eax, 1 << 99999999999"),
        ("mov eax, 1 // 0", "line 1: bad expression '1 // 0': mov eax, 1 // 0"),
    ],
)
def test_errors_name_line_and_reason(text, message):
    with pytest.raises(ValueError) as error:
        assemble(text, size=4096)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_the_sensitive_instructions_are_counted():
    assert len(SENSITIVE_UNPRIVILEGED) == 19
    assert set(SENSITIVE_UNPRIVILEGED) <= {e.mnemonic for e in ENCODINGS}

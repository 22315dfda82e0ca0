"""The instruction set as one table, read by the decoder and by the assembler alike.

A line of the table: opcode bytes (`0f` begins a two-byte opcode), `/n` for an opcode extension in the reg field of the
ModRM byte or `+` for a register in the low three bits of the opcode, the mnemonic, and the operands in the letters of the
manuals: E register or memory, G register, M memory, R register in the place of E, Z register in the opcode, I immediate,
J displacement of a jump, O memory at a plain address, A far pointer, S segment, C control, D debug register; sizes b (1
byte), w (2), v (2 or 4, by the operand-size prefix), d (4), p (far pointer); Is is a sign-extended byte, Es a register of
size v or two bytes of memory. `eAX` is EAX or AX by the same prefix. Encodings are those of the Intel SDM, volume 2.
"""

import re
from typing import NamedTuple

CONDITIONS = re.findall(r"\w+", "o no b ae e ne be a s ns p np l ge le g")
SYNONYMS = {"c": "b", "nae": "b", "nc": "ae", "nb": "ae", "z": "e", "nz": "ne", "na": "be", "nbe": "a"}
SYNONYMS |= {"pe": "p", "po": "np", "nge": "l", "nl": "ge", "ng": "le", "nle": "g"}
ARITHMETIC = ("add", "or", "adc", "sbb", "and", "sub", "xor", "cmp")
SHIFTS = {0: "rol", 1: "ror", 2: "rcl", 3: "rcr", 4: "shl", 5: "shr", 7: "sar"}

_ORDINARY = """
40+ inc Zv        48+ dec Zv        50+ push Zv       58+ pop Zv        60 pushad         61 popad
68 push Iv        6a push Is        69 imul Gv Ev Iv  6b imul Gv Ev Is  84 test Eb Gb     85 test Ev Gv
86 xchg Eb Gb     87 xchg Ev Gv     88 mov Eb Gb      89 mov Ev Gv      8a mov Gb Eb      8b mov Gv Ev
8d lea Gv M       8f /0 pop Ev      90 nop            90+ xchg Zv eAX   98 cwde           99 cdq
9e sahf           9f lahf           a0 mov AL Ob      a1 mov eAX Ov     a2 mov Ob AL      a3 mov Ov eAX
a4 movsb          a5 movsd          a6 cmpsb          a7 cmpsd          a8 test AL Ib     a9 test eAX Iv
aa stosb          ab stosd          ac lodsb          ad lodsd          ae scasb          af scasd
b0+ mov Zb Ib     b8+ mov Zv Iv     c2 ret Iw         c3 ret            c6 /0 mov Eb Ib   c7 /0 mov Ev Iv
c9 leave          e0 loopne Jb      e1 loope Jb       e2 loop Jb        e3 jecxz Jb       e8 call Jv
eb jmp Jb         e9 jmp Jv         f5 cmc            f6 /0 test Eb Ib  f6 /2 not Eb      f6 /3 neg Eb
f6 /4 mul Eb      f6 /5 imul Eb     f6 /6 div Eb      f6 /7 idiv Eb     f7 /0 test Ev Iv  f7 /2 not Ev
f7 /3 neg Ev      f7 /4 mul Ev      f7 /5 imul Ev     f7 /6 div Ev      f7 /7 idiv Ev     f8 clc
f9 stc            fc cld            fd std            fe /0 inc Eb      fe /1 dec Eb      ff /0 inc Ev
ff /1 dec Ev      ff /2 call Ev     ff /4 jmp Ev      ff /6 push Ev     0f af imul Gv Ev  0f b0 cmpxchg Eb Gb
0f b1 cmpxchg Ev Gv  0f b6 movzx Gv Eb  0f b7 movzx Gv Ew  0f be movsx Gv Eb  0f bf movsx Gv Ew  0f c0 xadd Eb Gb
0f c1 xadd Ev Gv  0f c8+ bswap Zd   0f ba /4 bt Ev Ib  0f bc bsf Gv Ev    0f bd bsr Gv Ev    0f 1f /0 nop Ev
"""

# What touches, or tells of, the state that a hypervisor must own.
_SYSTEM = """
06 push_seg ES      07 pop_seg ES       0e push_seg CS      16 push_seg SS      17 pop_seg SS
1e push_seg DS      1f pop_seg DS       0f a0 push_seg FS   0f a1 pop_seg FS    0f a8 push_seg GS
0f a9 pop_seg GS    8c mov_seg Es Sw    8e mov_seg Sw Ew    9a callf Ap         ea jmpf Ap
ff /3 callf Mp      ff /5 jmpf Mp       ca retf Iw          cb retf             cc int3
cd int Ib           ce into             cf iretd            9c pushfd           9d popfd
e4 in AL Ib         e5 in eAX Ib        e6 out Ib AL        e7 out Ib eAX       ec in AL DX
ed in eAX DX        ee out DX AL        ef out DX eAX       f4 hlt              fa cli
fb sti              0f 00 /0 sldt Es    0f 00 /1 str Es     0f 00 /2 lldt Ew    0f 00 /3 ltr Ew
0f 00 /4 verr Ew    0f 00 /5 verw Ew    0f 01 /0 sgdt M     0f 01 /1 sidt M     0f 01 /2 lgdt M
0f 01 /3 lidt M     0f 01 /4 smsw Es    0f 01 /6 lmsw Ew    0f 01 /7 invlpg M   0f 01 c1 vmcall
0f 02 lar Gv Es     0f 03 lsl Gv Es     0f 06 clts          0f 08 invd          0f 09 wbinvd
0f 0b ud2           0f 20 mov_cr Rd Cd  0f 21 mov_dr Rd Dd  0f 22 mov_cr Cd Rd  0f 23 mov_dr Dd Rd
0f 30 wrmsr         0f 31 rdtsc         0f 32 rdmsr         0f 33 rdpmc         0f a2 cpuid
"""

# The three kinds that a hypervisor must tell apart. The count of the last one is given as 17 [Robin&Irvine00], as 18 when
# each mnemonic of the usual list is counted, and as 19 when IRET, which [BNT17] adds, is counted too.
PRIVILEGED = re.findall(r"\w+", "lgdt lidt lldt ltr lmsw clts hlt invd wbinvd invlpg rdmsr wrmsr mov_cr mov_dr")
IOPL_SENSITIVE = ("cli", "sti", "in", "out")
SENSITIVE_UNPRIVILEGED = re.findall(
    r"\w+",
    "sgdt sidt sldt smsw pushfd popfd lar lsl verr verw pop_seg push_seg callf jmpf int retf str mov_seg iretd",
)


class Encoding(NamedTuple):
    """One line of the table."""

    opcode: bytes
    extension: int  # the reg field that belongs to the opcode, or -1
    plus: bool  # a register in the low three bits of the last opcode byte
    mnemonic: str
    operands: tuple[str, ...]
    modrm: bool


def _families():
    for i, name in enumerate(ARITHMETIC):
        for j, operands in enumerate(("Eb Gb", "Ev Gv", "Gb Eb", "Gv Ev", "AL Ib", "eAX Iv")):
            yield f"{8 * i + j:02x} {name} {operands}"
        for opcode, operands in (("83", "Ev Is"), ("80", "Eb Ib"), ("81", "Ev Iv")):
            yield f"{opcode} /{i} {name} {operands}"
    for i, name in SHIFTS.items():
        for opcode, operands in (
            ("d0", "Eb 1"),
            ("d1", "Ev 1"),
            ("d2", "Eb CL"),
            ("d3", "Ev CL"),
            ("c0", "Eb Ib"),
            ("c1", "Ev Ib"),
        ):
            yield f"{opcode} /{i} {name} {operands}"
    for i, name in enumerate(CONDITIONS):
        yield from (f"{0x70 + i:02x} j{name} Jb", f"0f {0x80 + i:02x} j{name} Jv")
        yield from (f"0f {0x40 + i:02x} cmov{name} Gv Ev", f"0f {0x90 + i:02x} set{name} Eb")


def _parse(text):
    opcode, extension, mnemonic, operands = re.fullmatch(
        r"((?:[0-9a-f]{2}\+? )+)(?:/(\d) )?(\w+)((?: \w+)*)", text
    ).groups()
    operands = tuple(operands.split())
    modrm = extension is not None or any(re.fullmatch("[EGMRSCD][bwvdsp]?", o) for o in operands)
    return Encoding(
        bytes.fromhex(opcode.replace("+", "")), int(extension or -1), "+" in opcode, mnemonic, operands, modrm
    )


def _lines(text):
    return [line for line in re.split(r"\s{2,}|\n", text) if line]


ENCODINGS = tuple(_parse(line) for line in (*_families(), *_lines(_ORDINARY), *_lines(_SYSTEM)))


def _index():
    """Return opcode bytes -> the encodings that begin so."""
    index = {}
    for encoding in ENCODINGS:
        for low in range(8) if encoding.plus else (0,):
            opcode = encoding.opcode[:-1] + bytes([encoding.opcode[-1] + low])
            index.setdefault(opcode, []).append(encoding)
    return index


BY_OPCODE = _index()

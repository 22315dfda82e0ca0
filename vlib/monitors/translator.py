"""From guest code to code for the translation cache, one unit of at most twelve instructions at a time [AA06, Section 3].

Innocent instructions are copied as they are. A few sensitive ones become one harmless instruction on the virtual
processor's state, which the monitor's segment GS reaches; the others become call-outs. Whatever moves EIP is redirected,
and a call pushes the guest's own return address, so that the guest never sees an address of the cache.
"""

import struct
from typing import NamedTuple

from vlib.x86.assembler import assemble
from vlib.x86.decoder import CS, GS, SEGMENTS, Instruction, Mem, Reg, Rel
from vlib.x86.system import RUN as SYSTEM
from vlib.x86.table import CONDITIONS

UNIT = 12  # instructions at most
CALL_OUT, CHAIN, INDIRECT = 0xF0, 0xF1, 0xF2  # the vectors by which the cache calls the monitor
STUB = 5  # bytes: room for a jump
LOOPS = {"loopne": 0xE0, "loope": 0xE1, "loop": 0xE2, "jecxz": 0xE3}
TRANSFERS = ("jmp", "call", "ret")
ENDING = ("iretd", "int", "int3", "into", "jmpf", "callf", "retf", "hlt", "ud2")
# Where the virtual processor's state lies, from GS:0 on.
STATE = {"if": 0, "cr0": 4, "cr2": 8, "cr3": 12, "cr4": 16, "tr": 20, "ldtr": 24}
STATE |= {name: 28 + 4 * i for i, name in enumerate(SEGMENTS)}


class Piece(NamedTuple):
    """Code for the cache: bytes, the guest EIP that its begin stands for, and whether it is free of guest time.

    `target` is the guest address that a stub leads to, None for anything else.
    """

    code: bytes
    eip: int
    free: bool = False
    target: int | None = None


def _call(vector: int) -> bytes:
    return bytes([0xCD, vector])


def _stub(target: int, eip: int | None = None) -> Piece:
    """Return a call for the monitor to chain; without `eip` it belongs to no guest instruction."""
    code = _call(CHAIN) + b"\x90" * (STUB - 2)
    return Piece(code, target if eip is None else eip, eip is None, target)


def in_place(insn: Instruction) -> str | None:
    """Return the one harmless instruction that does what a sensitive one would, or None if it takes a call-out.

    >>> from vlib.x86 import assemble, decode
    >>> in_place(decode(assemble("cli").code)), in_place(decode(assemble("push cs").code))
    ('mov byte ptr gs:[0x0], 0', 'push dword ptr gs:[0x20]')
    """
    name, operands = insn.mnemonic, insn.operands
    if name == "cli":
        return f"mov byte ptr gs:[{STATE['if']:#x}], 0"
    if name == "push_seg" and insn.size == 4:
        return f"push dword ptr gs:[{STATE[str(operands[0])]:#x}]"
    first, second = (*operands, None, None)[:2]
    if not isinstance(first, Reg) or first.kind != "r":
        return None  # loads of segment and control registers; results for memory would take two instructions
    source = {"smsw": "cr0", "str": "tr", "sldt": "ldtr", "mov_cr": str(second), "mov_seg": str(second)}.get(name)
    return f"mov {first}, gs:[{STATE[source]:#x}]" if source else None


def innocent(insn: Instruction) -> bool:
    """Return whether an instruction can be copied: it touches nothing that a monitor owns, neither CS nor GS."""
    if insn.mnemonic in SYSTEM and insn.mnemonic != "rdtsc":  # at ring 0 RDTSC reads the guest's clock in any case
        return False
    used = {o.segment for o in insn.operands if isinstance(o, Mem)} | {insn.segment}
    return not used & {CS, GS}


def _transfer(insn: Instruction, eip: int, after: int) -> list[Piece] | None:
    """Return the pieces of a near jump, call or return, or None for another instruction."""
    name, operand = insn.mnemonic, insn.operands[0] if insn.operands else None
    conditional = name in LOOPS or (isinstance(operand, Rel) and name not in TRANSFERS)
    if not conditional and name not in TRANSFERS:
        return None
    if not isinstance(operand, Rel):
        return [Piece(_call(INDIRECT), eip)]
    target = after + operand.value & 0xFFFFFFFF
    if name == "jmp":
        return [_stub(target, eip)]
    if name == "call":
        return [Piece(b"\x68" + struct.pack("<I", after), eip), _stub(target)]
    over = (
        bytes([LOOPS[name], STUB]) if name in LOOPS else bytes([0x0F, 0x80 + CONDITIONS.index(name[1:]), STUB, 0, 0, 0])
    )
    return [Piece(over, eip), _stub(after), _stub(target)]


def translate(instructions: list[tuple[int, Instruction, bytes]]) -> list[Piece]:
    """Return the code of one unit from (EIP, instruction, its bytes), in order; the last one may move EIP.

    >>> from vlib.x86 import decode
    >>> [p.code.hex() for p in translate([(0x100, decode(b"\\x40"), b"\\x40"), (0x101, decode(b"\\xc3"), b"\\xc3")])]
    ['40', 'cdf2']
    """
    pieces = []
    for eip, insn, code in instructions:
        after = eip + insn.length & 0xFFFFFFFF
        if transfer := _transfer(insn, eip, after):
            return pieces + transfer
        if innocent(insn):
            pieces.append(Piece(code, eip))
        elif text := in_place(insn):
            pieces.append(Piece(assemble(text).code, eip))
        else:
            pieces.append(Piece(_call(CALL_OUT), eip))
            if insn.mnemonic in ENDING:
                return pieces
    return [*pieces, _stub(after)]


def ends(insn: Instruction) -> bool:
    """Return whether a unit ends with this instruction."""
    return insn.mnemonic in ENDING or _transfer(insn, 0, 0) is not None

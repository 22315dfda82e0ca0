"""What a trace of exits costs: counts from the models times published cycles (`vlib.costs`), and nothing measured twice.

A price is that of the way out and back alone: what the monitor's own software then does is not in it, and the difference
to a published whole is shown, not fitted.
"""

from collections import Counter
from functools import cache
from typing import NamedTuple

from vlib import costs
from vlib.guests import TABLES, make
from vlib.monitors.base import Monitor
from vlib.monitors.binary_translation import BinaryTranslation
from vlib.monitors.hardware import Hardware
from vlib.monitors.trap_and_emulate import TrapAndEmulate

_FAULTS = ("#PF", "shadow fill", "trace", "reflect #PF", "#PF in delivery")  # reasons of shadow paging


def vtx(reason: str, generation: str) -> int:
    """Return the cycles of an exit for a reason and of the entry after it; what has no row of its own is priced as VMCALL.

    Raises ValueError for an unknown generation, or for an exit that a generation does not have.

    >>> vtx("out 0xe9", "Prescott"), vtx("out 0xe9", "Broadwell")
    (4275, 745)
    >>> vtx("EPT violation", "Penryn")
    Traceback (most recent call last):
    ValueError: no cycles for 'EPT violation' on Penryn, which has no nested paging or no figure for it
    """
    if generation not in costs.VTX_GENERATIONS:
        raise ValueError(f"generation {generation!r}, allowed: {', '.join(costs.VTX_GENERATIONS)}")
    rows = {"in": "port", "out": "port", "EPT": "nested", "cpuid": "cpuid"}
    row = rows.get(reason.split()[0], "page fault" if reason in _FAULTS else "vmcall")
    column = costs.VTX_GENERATIONS.index(generation)
    cycles = costs.VTX_CYCLES[row][column]
    if cycles is None:
        raise ValueError(f"no cycles for {reason!r} on {generation}, which has no nested paging or no figure for it")
    return cycles + costs.VTX_CYCLES["resume"][column]


def software(reason: str) -> int:
    """Return the cycles of one exit from deprivileged or translated code; `translate` is paid by the instruction instead.

    >>> software("reflect #PF"), software("call-out mov_cr"), software("indirect")
    (2030, 1254, 216)
    """
    kind = reason.split()[0]
    if kind == "translate":
        return 0
    if kind in ("call-out", "chain", "code"):
        return costs.AA06_CALL_OUT
    return costs.AA06_IN_CACHE if kind == "indirect" else costs.AA06_TRAP


def bill(monitor: Monitor, generation: str = "Prescott") -> Counter:
    """Return the cycles of a run, by reason; "guest" is the guest's own, one for each instruction.

    Raises ValueError for a monitor whose exits nobody has published cycles for.

    >>> from vlib.guests import guest
    >>> monitor = Hardware(guest("push_cs"), nested=False)
    >>> monitor.run(), bill(monitor)["out 0xe9"] == 8 * 4275
    ('halt', True)
    """
    lines = Counter(guest=monitor.v.cycles)
    for reason, count in monitor.counts().items():
        if isinstance(monitor, Hardware):
            lines[reason] += count * vtx(reason, generation)
        elif isinstance(monitor, TrapAndEmulate | BinaryTranslation):
            lines[reason] += count * software(reason)
        elif reason:
            raise ValueError(f"no published cycles for the exits of {type(monitor).__name__}")
    if isinstance(monitor, BinaryTranslation):
        lines["translate"] = monitor.translated * costs.AA06_TRANSLATE
    return lines


# One operation over and over, as in AA06's nano-benchmarks: what is set up once, and what is done each time.
_OPERATIONS = {
    "in": "in al, 0x60",
    "callret": "call empty",
    "pgfault": "mov eax, [0x400000]",
    "divzero": "div ebp",
    "ptemod": "xor byte ptr [table + 4 * 1000], 0x10",
    "syscall": "int 0x80",
    "out": "out 0x80, al",
}
_FRAME = (
    """
        cli
        lgdt [gdtr]
        lidt [idtr]
        mov esp, boot_top
        mov eax, 0x23
        mov ds, ax
        mov es, ax
        mov eax, 0x28
        ltr ax
        mov edi, table
        mov eax, 7
        mov ecx, end >> 12
map:    stosd
        add eax, 0x1000
        loop map
        mov eax, directory
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80010000
        mov cr0, eax
        xor ebp, ebp
        mov esi, {count}
        {user}
again:  {operation}
        dec esi
        jnz again
        int 0x7f
stop:   hlt
empty:  ret
skip2:  add dword ptr [esp], 2
back:   iretd
skip5:  add esp, 4
        add dword ptr [esp], 5
        iretd
        align 4096
"""
    + TABLES
    + """
        align 8
idt:    dd 0x80000 | skip2 & 0xffff, 0x8e00
        org idt + 8 * 14
        dd 0x80000 | skip5 & 0xffff, 0x8e00
        org idt + 8 * 0x7f
        dd 0x80000 | stop & 0xffff, 0xee00
        dd 0x80000 | back & 0xffff, 0xee00
        space 1024
boot_top:
        align 4096
directory: dd table + 7
        align 4096
table:  space 4096
end:
"""
)
_USER = "push 0x23 \n push boot_top - 512 \n push 2 \n push 0x1b \n push again \n iretd"


@cache
def per_operation(name: str, kind: str) -> dict[str, int]:
    """Return the exits of one operation, once all is warm: {reason: count}, counted by the models.

    `kind` is "bt", "shadow" (hardware without nested paging) or "nested". Raises ValueError for another name or kind.

    >>> per_operation("ptemod", "shadow"), per_operation("ptemod", "nested")
    ({'trace': 1}, {})
    """
    kinds = {
        "bt": BinaryTranslation,
        "shadow": lambda guest: Hardware(guest, nested=False),
        "nested": Hardware,
    }
    if name not in _OPERATIONS or kind not in kinds:
        allowed = f"{', '.join(_OPERATIONS)}; {', '.join(kinds)}"
        raise ValueError(f"operation {name!r} with {kind!r}, allowed: {allowed}")
    counts = []
    for count in (8, 24):
        user = _USER if name == "syscall" else ""
        text = _FRAME.format(operation=_OPERATIONS[name], count=count, user=user)
        monitor = kinds[kind](make(name, text))
        monitor.run(10_000)
        counts.append(monitor.counts())
    return {reason: many // 16 for reason, many in (counts[1] - counts[0]).items()}


def cycles(name: str, kind: str, generation: str = "Prescott") -> int:
    """Return the monitor's cycles for one operation: exits per operation times cycles per exit, the two levers.

    >>> [cycles("ptemod", "shadow", g) for g in ("Prescott", "Haswell")], cycles("ptemod", "nested", "Haswell")
    ([4259, 830], 0)
    """
    price = software if kind == "bt" else (lambda reason: vtx(reason, generation))
    return sum(count * price(reason) for reason, count in per_operation(name, kind).items())


class Prediction(NamedTuple):
    """A row of AA06's figure: predicted and published cycles, and the share of the published that the way explains."""

    name: str
    kind: str
    predicted: int
    published: int
    share: float


def predictions() -> list[Prediction]:
    """Return the nano-benchmarks of AA06 as predictions: native cycles, plus exits times their cycles.

    A port read of the guest never reaches the real device, so there the native cycles are not added.

    >>> predictions()[1]
    Prediction(name='in', kind='shadow', predicted=4275, published=15826, share=0.27012511057753064)
    """
    rows = []
    for name, (native, bt, vt) in costs.AA06_NANO.items():
        for kind, published in (("bt", bt), ("shadow", vt)):
            way = cycles(name, kind)
            rows.append(Prediction(name, kind, way + (0 if name == "in" else native), published, way / published))
    return rows

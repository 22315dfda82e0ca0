"""The virtual-machine control structure: one page of memory that says how a guest is entered, and how it was left.

The processor saves and loads the guest's and the host's state there, at each entry and exit; a hypervisor reads and writes
its fields by name (VMREAD, VMWRITE), because where they lie is the processor's own affair. General registers other than
ESP are not in it: to save those is the hypervisor's work. The controls say which events leave the guest [BNT17, 4.2].
"""

from typing import NamedTuple

from vlib.x86.cpu import CPU
from vlib.x86.decoder import ESP, SS
from vlib.x86.memory import PAGE, Memory
from vlib.x86.segments import Descriptor, Segment

SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")
REVISION = 1


def _state(who: str) -> list[str]:
    names = ["eip", "esp", "eflags", "cr0", "cr3", "cr4", "gdtr_base", "gdtr_limit", "idtr_base", "idtr_limit"]
    names += [f"{s}_{part}" for s in SEGMENTS for part in ("selector", "base", "limit", "access")]
    return [f"{who}_{name}" for name in (*names, "halted", "interrupt_shadow")]


CONTROLS = (
    "hlt", "invlpg", "rdtsc", "cr3_load", "cr3_store", "interrupt_window", "exceptions", "cr0_mask", "cr0_shadow",
    "cr4_mask", "cr4_shadow", "io_bitmap", "nested_paging", "entry_event", "entry_vector", "entry_error",
    "entry_return",
)  # fmt: skip
INFORMATION = ("reason", "qualification", "instruction_length", "exit_vector", "exit_error")
FIELDS = {name: 8 + 4 * i for i, name in enumerate((*_state("guest"), *_state("host"), *CONTROLS, *INFORMATION))}


class Controls(NamedTuple):
    """What a hypervisor may choose to be told of; what exits without being asked for is not among it.

    `exceptions` is a bit for each vector; `cr0_mask` and `cr4_mask` are the bits that the hypervisor keeps: the guest
    reads them from a read shadow, and a write that would change one exits; `ports` None means all of them.
    """

    hlt: bool = True
    invlpg: bool = False
    rdtsc: bool = False
    cr3_load: bool = False
    cr3_store: bool = False
    exceptions: int = 0
    cr0_mask: int = 0
    cr4_mask: int = 0
    ports: frozenset[int] | None = None


class VMCS:
    """Fields by name, in a page of memory.

    >>> vmcs = VMCS(Memory(4096), 0)
    >>> vmcs.write("exceptions", 1 << 14)
    >>> vmcs.read("exceptions"), vmcs.memory.read(0, 4)
    (16384, 1)
    >>> vmcs.read("exception")
    Traceback (most recent call last):
    ValueError: no field 'exception' in the VMCS
    """

    def __init__(self, memory: Memory, address: int):
        self.memory, self.address = memory, address
        memory.load(address, bytes(PAGE))
        memory.write(address, REVISION, 4)

    def _place(self, field: str) -> int:
        if field not in FIELDS:
            raise ValueError(f"no field {field!r} in the VMCS")
        return self.address + FIELDS[field]

    def read(self, field: str) -> int:
        """Return a field: VMREAD."""
        return self.memory.read(self._place(field), 4)

    def write(self, field: str, value: int):
        """Set a field: VMWRITE."""
        if not 0 <= value < 1 << 32:
            raise ValueError(f"{field} = {value}, allowed: 32 bits")
        self.memory.write(self._place(field), int(value), 4)

    def save(self, who: str, cpu: CPU):
        """Store a processor's state as the guest's or the host's."""
        state = {"eip": cpu.eip, "esp": cpu.regs[ESP], "eflags": cpu.flags}
        state |= {f"cr{i}": cpu.cr[i] for i in (0, 3, 4)}
        for name, (base, limit) in (("gdtr", cpu.gdtr), ("idtr", cpu.idtr)):
            state |= {f"{name}_base": base, f"{name}_limit": limit}
        for name, segment in zip(SEGMENTS, (*cpu.segs, cpu.ldtr, cpu.tr), strict=True):
            base, limit, access, flags = segment.descriptor
            state |= {f"{name}_selector": segment.selector, f"{name}_base": base, f"{name}_limit": limit}
            state[f"{name}_access"] = access | flags << 12
        state |= {"halted": cpu.halted, "interrupt_shadow": cpu.shadow}
        for name, value in state.items():
            self.write(f"{who}_{name}", value)

    def load(self, who: str, cpu: CPU):
        """Load a processor with the guest's or the host's state; its privilege level is that of its stack segment."""

        def get(name):
            return self.read(f"{who}_{name}")

        cpu.eip, cpu.regs[ESP], cpu.flags = get("eip"), get("esp"), get("eflags")
        for i in (0, 3, 4):
            cpu.set_cr(i, get(f"cr{i}"))
        cpu.gdtr, cpu.idtr = ((get(f"{name}_base"), get(f"{name}_limit")) for name in ("gdtr", "idtr"))
        segments = []
        for name in SEGMENTS:
            access = get(f"{name}_access")
            raw = Descriptor(get(f"{name}_base"), get(f"{name}_limit"), access & 0xFF, access >> 12)
            segments.append(Segment(get(f"{name}_selector"), raw if any(raw) else None))
        for i, segment in enumerate(segments[:6]):
            cpu.set_segment(i, segment)
        cpu.ldtr, cpu.tr = segments[6:]
        cpu.set_cpl(cpu.segs[SS].descriptor.dpl)
        cpu.halted, cpu.shadow = bool(get("halted")), bool(get("interrupt_shadow"))

"""Paravirtualization: the guest kernel knows where it runs, and asks for what it may not do [Xen03].

It runs in ring 1 on *its own* page tables, which name pages of the machine and are written only by hypercalls, each batch
validated. Interrupts are events: a bit in a shared page, and a mask there in place of IF. Nothing is emulated: what a
kernel does that it may not is a fault of its own.
"""

from vlib.guests import Guest
from vlib.monitors.base import Host
from vlib.monitors.deprivileged import Deprivileged
from vlib.monitors.page_types import PageTypes, Refused
from vlib.monitors.port import CALLS, CR2, HYPERCALL, MASK, PENDING
from vlib.x86.alu import IF
from vlib.x86.decoder import EAX, EBX, ECX, ESP
from vlib.x86.memory import ACCESSED, PAGE, PRESENT, WRITABLE
from vlib.x86.system import ET, PE, PG, WP
from vlib.x86.transfer import return_far
from vlib.x86.traps import PF, Trap

REFUSED = 0xFFFFFFEA  # -EINVAL
ENTRIES = 1024  # in one batch


class Paravirtual(Deprivileged):
    r"""A ported guest kernel in ring 1; an unmodified one soon comes to its end.

    >>> from vlib.monitors.port import ported
    >>> monitor = Paravirtual(ported("kernel"))
    >>> monitor.run(), monitor.console
    ('halt', 'AAAABBBBAA6BB6\n')
    >>> from vlib.guests import guest
    >>> closed = Paravirtual(guest("kernel"))
    >>> closed.run(), closed.console, closed.exits[0].reason
    ('shutdown', '', 'reflect #GP')
    """

    def __init__(self, guest: Guest, host: Host | None = None):
        super().__init__(guest, host, ring=1)
        v, memory = self.v, self.host.memory
        root, self.shared, self.pending, self.stale = self.host.take(PAGE), None, False, True
        own = self.shadow.own | PRESENT | WRITABLE | ACCESSED  # so that the walk leaves it as it is
        memory.write(root + PAGE - 4, own, 4)
        for page in range(0, guest.memory, PAGE):  # to begin with, the guest's memory as it believes it to be
            slot = root + (page >> 22) * 4
            if not memory.read(slot, 4):
                memory.write(slot, self.host.take(PAGE) | PRESENT | WRITABLE, 4)
            memory.write((memory.read(slot, 4) & -PAGE) + (page >> 12 & 1023) * 4, self.base + page | 3, 4)
        self.types = PageTypes(memory, self.base, self.base + guest.memory, own)
        v.paging.nested = None  # the tables name pages of the machine
        v.set_cr(3, root)
        v.set_cr(0, PE | ET | PG | WP)
        v.gdtr, v.idtr, v.tr = (0, 0), (0, 0), self.task

    def address_space(self) -> tuple[int, bool]:
        """Return the guest's own directory."""
        stale, self.stale = self.stale, False
        return self.v.cr[3], stale

    # The shared page: what the guest reads and writes there without any exit

    def _shared(self, offset: int, value: int | None = None) -> int:
        if value is not None:
            self.host.memory.write(self.shared + offset, value, 4)
        return self.host.memory.read(self.shared + offset, 4)

    def _to_shared(self):
        board = self.v.board
        self._shared(MASK, not self.v.flags & IF)
        if not self.pending and (board.in_service or board.interrupting()):
            self.pending = True
            self._shared(PENDING, 1)

    def _from_shared(self):
        v = self.v
        v.flags = v.flags & ~IF | (0 if self._shared(MASK) else IF)
        if self.pending and not self._shared(PENDING):  # the guest has taken the event
            self.pending = v.board.in_service = False

    def enter(self, limit: int):
        """Run the guest on the real processor up to its next hypercall, fault or event."""
        v = self.v
        if self.shared is not None:
            self._to_shared()
        self.load()
        trap = self.cpu.execute(limit)
        self.unload()
        if self.shared is not None:
            self._from_shared()
        if trap is None:
            return
        if trap.software and trap.vector == HYPERCALL and v.cpl == 0:
            v.eip, v.steps, v.cycles = trap.next, v.steps + 1, v.cycles + 1
            return self._hypercall()
        name = f"int {trap.vector:#x}" if trap.software else str(trap).split("(")[0]
        self.note(f"reflect {name}")
        if trap.vector == PF and self.shared is not None:
            self._shared(CR2, trap.address)
        v.reflect(trap)

    # Hypercalls: arguments in EBX and ECX, the result in EAX

    def _hypercall(self):
        regs = self.v.regs
        name = CALLS[regs[EAX]] if regs[EAX] < len(CALLS) else "unknown"
        self.note(f"hypercall {name}")
        if name == "iret":
            return self._iret()
        try:
            result = getattr(self, f"_{name}")(regs[EBX], regs[ECX])
        except (Refused, Trap):
            result = None
        regs[EAX] = REFUSED if result is None else result

    def _unknown(self, *_):
        return None

    def _set_shared(self, address, _):
        page = self.v.translate(address, False, True)
        if not self.base <= page <= self.base + self.guest.memory - 12 or address % 4:
            return None
        self.shared = page
        return self.base

    def _set_gdt(self, address, limit):
        self.v.gdtr = address, limit & 0xFFFF
        return 0

    def _set_traps(self, address, size):
        self.v.idtr = address, size - 1 & 0xFFFF
        return 0

    def _set_timer(self, period, _):
        board, now = self.v.board, self.v.cycles
        for port, value in ((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xFE), (0x43, 0x34)):
            board.output(port, 1, value, now)
        for value in (period & 0xFF, period >> 8 & 0xFF):
            board.output(0x40, 1, value, now)
        return 0

    def _stack_switch(self, top, _):
        self.host.memory.write(self.own[1] + 4, top, 4)
        self.host.memory.write(self.own[1] + 8, 0x10, 4)
        return 0

    def _new_base(self, root, _):
        self.types.pin(root)
        self.v.set_cr(3, root)
        return 0

    def _mmu_update(self, address, count):
        if not 0 < count <= ENTRIES:
            return None
        words = [self.v.read_linear(address + 4 * i, 4) for i in range(2 * count)]
        self.types.update(list(zip(words[::2], words[1::2], strict=True)))
        self.v.flush()
        self.stale = True  # no translation outlives the entry that it came from
        return 0

    def _console(self, letter, _):
        self.v.board.output(0xE9, 1, letter & 0xFF, self.v.cycles)
        return 0

    def _block(self, *_):
        self.v.halted = True
        return 0

    def _check(self, *_):
        return 0  # on the way back, events are looked at anyway

    def _iret(self):
        v = self.v
        try:
            v.regs[EAX] = v.load(2, v.regs[ESP], 4)
            v.regs[ESP] += 4
            return_far(v, flags=True)
        except Trap as trap:
            trap.next = v.eip
            v.reflect(trap)

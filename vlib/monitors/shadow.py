"""Shadow page tables: from guest-virtual straight to host-physical, in the tables that the real processor walks.

They are filled as the guest touches its pages, and kept when it changes CR3. So that they never say what the guest's own
tables have ceased to say, the pages that hold those are *traced*: mapped read-only, each write to them an exit
[AA06, Section 2.4]. A monitor that lives in the guest's address spaces has the top 4 MiB of each.
"""

from vlib.monitors.base import Monitor
from vlib.x86.memory import DIRTY, LARGE, PAGE, PRESENT, USER, WRITABLE, PageFault
from vlib.x86.traps import PF, Trap

OWN = 0xFFC00000  # where the monitor's own 4 MiB begin, in all address spaces
SPACES = 32  # shadow tables that are kept at once


class Shadow:
    """The shadow tables of one guest; `both` gives user rights to what the kernel maps, for a kernel run in ring 3."""

    def __init__(self, monitor: Monitor, own: list[int] = (), both: bool = False):
        self.monitor, self.v, self.memory, self.both = monitor, monitor.v, monitor.host.memory, both
        pages = 1 + SPACES * 2
        self.pool = [monitor.host.take(PAGE) for _ in range(pages)]
        self.own = self.pool.pop() if own else None  # a page table for the monitor's own pages, not for the user
        for i, page in enumerate(own):
            self.memory.write(self.own + 4 * i, page | PRESENT | WRITABLE, 4)
        self.filling, self.changed, self.watched = False, True, set()
        self.clear()

    def clear(self):
        """Forget everything."""
        self.free, self.roots, self.tables = list(self.pool), {}, {}
        self.uses, self.writable, self.changed = {}, {}, True

    def _new(self) -> int:
        page = self.free.pop()
        self.memory.load(page, bytes(PAGE))
        return page

    def root(self) -> int:
        """Return the directory for the address space that the guest is in."""
        v = self.v
        space = (v.cr[0] & 0x80010000, v.cr[3], v.cr[4] & 16, v.cpl == 3 and self.both)
        if space not in self.roots:
            if len(self.free) < 2:
                self.clear()
            self.roots[space] = root = self._new()
            if self.own is not None:
                self.memory.write(root + (OWN >> 22) * 4, self.own | PRESENT | WRITABLE, 4)
            if v.paging.enabled:
                self._trace(v.paging.root, root, None)
        return self.roots[space]

    def _trace(self, guest_page: int, root: int, slot: int | None):
        """Have a guest's table watched: `slot` None for a directory, else the directory entry that names the table."""
        place = self.monitor.place(guest_page)
        if place not in self.uses:
            self.uses[place] = set()
            for entry in self.writable.pop(place, ()):
                self.memory.write(entry, self.memory.read(entry, 4) & ~WRITABLE, 4)
            self.changed = True
        self._watch(place)
        self.uses[place].add((root, slot))

    def _watch(self, place: int):
        if place not in self.watched:
            self.watched.add(place)
            self.memory.watch(place, self._written)

    def _written(self, place: int):
        """Drop what was derived from a guest's table; the marks that a walk makes there change no translation."""
        self.watched.discard(place)
        if place in self.uses:
            self._watch(place)
            if not self.filling:
                self._drop(place, range(1024))

    def _drop(self, place: int, entries: range):
        for root, slot in self.uses.get(place, ()):
            if slot is None:
                for i in entries:
                    if self.own is None or i != OWN >> 22:
                        self.memory.write(root + 4 * i, 0, 4)
                        self.tables.pop((root, i), None)
            elif (root, slot) in self.tables:
                for i in entries:
                    self.memory.write(self.tables[root, slot] + 4 * i, 0, 4)
        self.changed = True

    def _rights(self, linear: int, root: int) -> int:
        """Return what the guest's own entries allow at an address that is mapped, and have their tables watched."""
        v = self.v
        if not v.paging.enabled:
            return USER | WRITABLE | DIRTY
        slot = linear >> 22
        entry = self.memory.read(self.monitor.place(v.paging.root) + slot * 4, 4)
        if v.paging.large and entry & LARGE:
            return entry
        table = entry & -PAGE
        self._trace(table, root, slot)
        last = self.memory.read(self.monitor.place(table) + (linear >> 12 & 1023) * 4, 4)
        return entry & last & (USER | WRITABLE) | last & DIRTY

    def fill(self, linear: int, user: bool, write: bool) -> str:
        """Enter the translation that a fault asked for; return "shadow fill", or "trace" if the page holds a table.

        Raises `PageFault` if the guest's own tables have none: then the fault is the guest's.
        """
        self.filling = True
        try:
            page = self.v.paging.translate(linear, user, write)
        finally:
            self.filling = False
        root = self.root()
        if (root, linear >> 22) not in self.tables:
            if not self.free:
                self.clear()
                root = self.root()
            self.tables[root, linear >> 22] = table = self._new()
            self.memory.write(root + (linear >> 22) * 4, table | PRESENT | WRITABLE | USER, 4)
        rights = self._rights(linear, root)
        traced = page in self.uses
        # Not writable before it is dirty, so that the guest's entry gets the mark. A kernel without CR0.WP may write what
        # its user may only read: then the page is the kernel's alone until the user asks again.
        bits = PRESENT | rights & USER | (WRITABLE if rights & WRITABLE and rights & DIRTY else 0)
        if write and not rights & WRITABLE:
            bits = PRESENT | WRITABLE
        if self.both and not self.v.cpl:
            bits |= USER
        entry = self.tables[root, linear >> 22] + (linear >> 12 & 1023) * 4
        if bits & WRITABLE:
            if traced:
                bits &= ~WRITABLE
            else:
                self.writable.setdefault(page, set()).add(entry)
        self.memory.write(entry, page | bits, 4)
        self.changed = True
        return "trace" if traced and write else "shadow fill"

    def fault(self, trap: Trap) -> bool:
        """Handle a page fault of the real processor; return False if it is the guest's own.

        Of a write to a traced page the instruction is emulated, and what it changed is dropped from the shadow.
        """
        v, monitor = self.v, self.monitor
        try:
            reason = self.fill(trap.address, v.cpl == 3, bool(trap.error & WRITABLE))
        except PageFault as fault:
            monitor.note("reflect #PF")
            own = Trap(PF, fault.error, fault.address)
            own.eip = own.next = v.eip
            v.reflect(own)
            return True
        monitor.note(reason)
        if reason == "trace":
            place = v.paging.translate(trap.address, v.cpl == 3, True)
            first, self.filling = (trap.address & 0xFFF) // 4, True
            again = v.execute(1)
            self.filling = False
            self._drop(place, range(first, min(first + 2, 1024)))
            if again is not None:
                v.reflect(again)
        return True

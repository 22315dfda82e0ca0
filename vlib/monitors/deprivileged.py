"""Ring deprivileging: a guest kernel on the real processor, in ring 1 or 3 instead of ring 0.

What the real processor has while the guest runs: the guest's registers; segments whose level is raised to the kernel's
new ring and whose limit ends below the monitor's own memory [AA06, Section 6]; the monitor's descriptor table (a shadow of
the guest's), interrupt table and task state; shadow page tables; IF always on and IOPL 0.
"""

from vlib.guests import Guest
from vlib.monitors.base import Host, Monitor
from vlib.monitors.shadow import OWN, Shadow
from vlib.x86.alu import IF, IOPL
from vlib.x86.decoder import CS, SS
from vlib.x86.memory import PAGE
from vlib.x86.segments import TSS_BUSY, Descriptor, Segment
from vlib.x86.system import ET, PE, PG, TSD, WP
from vlib.x86.traps import MASK, Trap

TASK = 0xFF8  # the monitor's task state: the last selector of its table; the guest's table ends before


class Deprivileged(Monitor):
    """A monitor that runs guest code on the host's processor with less privilege than it believes to have."""

    def __init__(self, guest: Guest, host: Host | None = None, ring: int = 1, pages: int = 0):
        if ring not in (1, 3):
            raise ValueError(f"guest kernel in ring {ring}, allowed: 1 or 3")
        super().__init__(guest, host)
        self.cpu, self.ring = self.host.cpu, ring
        table, task = self.host.take(PAGE), self.host.take(PAGE)
        self.own = [table, task] + [self.host.take(PAGE) for _ in range(pages)]
        self.host.memory.write(task + 0x66, 0x68, 2)  # no bit map of ports: none is the guest's
        self.shadow = Shadow(self, self.own, both=ring == 3)
        self.task = Segment(TASK, Descriptor(OWN + PAGE, 0x67, 0x80 | TSS_BUSY, 0))
        self.table, self.descriptors, self.watched = None, {}, set()

    def deprivileged(self, descriptor: Descriptor) -> Descriptor:
        """Return a code or data descriptor as the real processor gets it."""
        base, limit, access, flags = descriptor
        top = OWN - base - 1 if base < OWN else -1
        if top < 0 or not descriptor.access & 0x10:
            return Descriptor(0, 0, 0, 0)
        return Descriptor(base, min(limit, top), access & ~0x60 | max(descriptor.dpl, self.ring) << 5, flags)

    def _segment(self, index: int) -> Segment:
        seen = self.v.segs[index]
        if not seen.descriptor.access:
            return seen
        selector = seen.selector
        if index in (CS, SS) and selector & 3 == 0:
            selector |= self.ring  # the processor insists: so PUSH CS shows the ring
        return Segment(selector, self.deprivileged(seen.descriptor))

    def _copy_table(self):
        """Bring the shadow of the guest's descriptor table up to date.

        A descriptor never loaded before is shown as absent: its first load traps, and the guest's own gets its mark.
        """
        v, (base, limit) = self.v, self.v.gdtr
        table, at, end = b"", base, base + min(limit + 1, TASK)
        try:
            while at < end:
                size = min(end - at, PAGE - at % PAGE)
                place = v.translate(at & MASK, False, False)
                table += self.host.memory.copy(place, size)
                if place & -PAGE not in self.watched:
                    self.watched.add(place & -PAGE)
                    self.host.memory.watch(place & -PAGE, self._table_written)
                at += size
        except Trap:
            pass  # not mapped: to the processor, no table
        if table == self.table:
            return
        self.table, self.descriptors = table, {}
        shadow = bytearray(PAGE)
        for i in range(8, len(table) - 7, 8):
            self.descriptors[i] = seen = Descriptor.parse(int.from_bytes(table[i : i + 8], "little"))
            real = self.deprivileged(seen)
            if real.access & 0x11 == 0x11:
                shadow[i : i + 8] = real.pack().to_bytes(8, "little")
        shadow[TASK:] = self.task.descriptor.pack().to_bytes(8, "little")
        self.host.memory.load(self.own[0], bytes(shadow))

    def _table_written(self, page: int):
        self.watched.discard(page)
        self.cpu.deadline = 0  # stop after this instruction, so that the next finds the new table

    def address_space(self) -> tuple[int, bool]:
        """Return the directory that the real processor is to walk, and whether its translations have become stale."""
        root, changed = self.shadow.root(), self.shadow.changed
        self.shadow.changed = False
        return root, changed

    def load(self):
        """Put the guest on the real processor."""
        v, cpu = self.v, self.cpu
        self._copy_table()
        if cpu.hook is not None:  # a guest with hardware support ran here before
            cpu.set_hook(None)
            cpu.paging.nested = None
            cpu.flush()
        root, changed = self.address_space()
        for number, value in ((0, PE | ET | WP | PG), (3, root), (4, v.cr[4] & TSD)):
            if cpu.cr[number] != value:
                cpu.set_cr(number, value)
        if changed:
            cpu.flush()
        cpu.gdtr, cpu.idtr, cpu.ldtr, cpu.tr = (OWN, PAGE - 1), (OWN + PAGE + 0x800, 0x7FF), Segment(0, None), self.task
        cpu.regs[:], cpu.eip, cpu.flags = v.regs, v.eip, v.flags & ~IOPL | IF
        self.loaded = [self._segment(i) for i in range(6)]
        for i, segment in enumerate(self.loaded):
            cpu.set_segment(i, segment)
        cpu.set_cpl(3 if v.cpl == 3 else self.ring)
        cpu.cycles, cpu.steps, cpu.board.deadline = v.cycles, v.steps, v.board.deadline
        cpu.halted = cpu.shadow = False

    def unload(self):
        """Take what the guest did back to the virtual processor; of IF and IOPL the real ones say nothing."""
        v, cpu = self.v, self.cpu
        v.regs[:], v.eip = cpu.regs, cpu.eip
        v.flags = v.flags & (IF | IOPL) | cpu.flags & ~(IF | IOPL)
        v.steps, v.cycles, v.shadow = cpu.steps, cpu.cycles, cpu.shadow
        if cpu.cpl == 3 and self.ring < 3 and v.cpl != 3:
            v.set_cpl(3)  # IRET and RETF to ring 3 do not trap: the real ring tells
        for i, segment in enumerate(cpu.segs):
            if segment is not self.loaded[i]:  # loaded without a trap, from the shadow table
                selector = segment.selector & ~3 | v.cpl if i in (CS, SS) else segment.selector
                v.set_segment(i, Segment(selector, self.descriptors.get(selector & 0xFFF8)))

    def emulate(self, verb: str = "emulate"):
        """Do one instruction as the guest's own processor would; what traps there is the guest's to handle.

        So what the guest's *user* may not do is reflected to the guest's kernel, and never emulated for the user.
        """
        v = self.v
        try:
            mnemonic = v.fetch(v.eip)[1].insn.mnemonic
        except Trap:
            mnemonic = "fetch"
        place, paging = len(self.exits), (v.cr[0], v.cr[4])
        self.note(f"{verb} {mnemonic}")
        trap = v.execute(1)
        if trap is not None:
            name = f"int {trap.vector:#x}" if trap.software else str(trap).split("(")[0]
            self.exits[place] = self.exits[place]._replace(reason=f"reflect {name}")
            v.reflect(trap)
        if paging != (v.cr[0], v.cr[4]):
            self.shadow.clear()

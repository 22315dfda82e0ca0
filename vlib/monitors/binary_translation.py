"""Binary translation: the guest kernel never runs; what runs is what the monitor wrote in its place [AA06].

Translation happens on demand, at the first jump to an address. The translation cache lies in the monitor's own memory at
the top of every address space; its code runs in ring 1. Direct jumps are chained, so that what is hot never leaves the
cache. User code runs directly in ring 3, as under trap-and-emulate, holes included: a user cannot tell more than there.
Code that is written is noticed by its page, and the whole cache is then emptied.
"""

from vlib.guests import Guest
from vlib.monitors.base import Host
from vlib.monitors.deprivileged import Deprivileged
from vlib.monitors.shadow import OWN
from vlib.monitors.translator import CALL_OUT, CHAIN, INDIRECT, STATE, STUB, UNIT, ends, translate
from vlib.x86.alu import IF
from vlib.x86.decoder import CS, GS
from vlib.x86.memory import PAGE
from vlib.x86.segments import Descriptor, Segment
from vlib.x86.traps import MASK, PF, UD, Trap

STATE_PAGE, CACHE = OWN + 2 * PAGE, OWN + 3 * PAGE  # in every address space
REMAPPING = ("mov_cr", "invlpg", "lmsw", "clts")
_CODE = Segment(0xFE1, Descriptor(0, MASK, 0xBB, 0xC))  # ring 1, all of memory
_STATE = Segment(0xFE9, Descriptor(STATE_PAGE, PAGE - 1, 0xB3, 0x4))


class BinaryTranslation(Deprivileged):
    r"""A guest kernel translated; `units` and `translated` count what the translator did, flushes included.

    >>> from vlib.guests import guest
    >>> monitor = BinaryTranslation(guest("kernel"))
    >>> monitor.run(), monitor.console
    ('halt', 'AAAABBBBAA6BB6\n')
    """

    def __init__(self, guest: Guest, host: Host | None = None, cache_pages: int = 32):
        if not 0 < cache_pages <= 64:
            raise ValueError(f"cache of {cache_pages} pages, allowed: 1 to 64")
        super().__init__(guest, host, ring=1, pages=1 + cache_pages)
        self.size = cache_pages * PAGE
        self.state_page, self.cache = self.own[2:4]  # where they lie in the host
        self.units, self.translated, self.watched_code, self.origin = 0, 0, set(), {}
        self.flush()

    def flush(self):
        """Empty the cache."""
        self.cpu.free -= {self.cache + at for at in self.origin}
        self.cursor, self.stale, self.resume = 0, False, None
        self.places, self.origin, self.stubs, self.pages = {}, {}, {}, {}

    # The translation cache: offsets from its begin

    def _context(self) -> tuple:
        v = self.v
        return v.cr[0] >> 31, v.cr[3], v.segs[CS].base, v.segs[CS].descriptor.limit

    def _page(self, eip: int) -> int:
        return self.v.translate(self.v.segs[CS].base + eip & MASK, False, False)

    def _unit(self, eip: int) -> int:
        """Return the place of the unit for a guest address, translated if need be; raises `Trap` where none can be."""
        context = self._context()
        if (context, eip) not in self.places:
            if self.cursor > self.size - 512:
                self.flush()
            self.places[context, eip] = self._translate(eip, context)
        return self.places[context, eip]

    def _translate(self, eip: int, context: tuple) -> int:
        v, instructions, at = self.v, [], eip
        while len(instructions) < UNIT:
            try:
                insn = v.fetch(at)[1].insn
                place = self._page(at)
            except Trap:
                if at == eip:
                    raise
                break
            if (at ^ eip) & -PAGE or (at + insn.length - 1 ^ at) & -PAGE:
                if at == eip:
                    raise Trap(UD)  # across two pages: rare enough to be interpreted
                break
            instructions.append((at, insn, v.memory.copy(place, insn.length)))
            self._watch(place & -PAGE)
            at = at + insn.length & MASK
            if ends(insn):
                break
        self.pages[context, (v.segs[CS].base + eip & MASK) & -PAGE] = self._page(eip) & -PAGE
        self.units, self.translated = self.units + 1, self.translated + len(instructions)
        begin = self.cursor
        for piece in translate(instructions):
            target = self.places.get((context, piece.target)) if piece.target is not None else None
            self.origin[self.cursor] = piece.eip
            if piece.free:
                self.cpu.free.add(self.cache + self.cursor)
            if piece.target is not None:
                self.stubs[self.cursor] = piece.target
            self._write(self.cursor, piece.code)
            if target is not None:
                self._chain(self.cursor, target)
            self.cursor += len(piece.code)
        self.note("translate")
        return begin

    def _write(self, at: int, code: bytes):
        self.host.memory.load(self.cache + at, code)

    def _chain(self, stub: int, target: int):
        self._write(stub, b"\xe9" + (target - stub - STUB & MASK).to_bytes(4, "little"))

    def _watch(self, page: int):
        if page not in self.watched_code:
            self.watched_code.add(page)
            self.host.memory.watch(page, self._code_written)

    def _code_written(self, page: int):
        self.watched_code.discard(page)
        self.stale, self.cpu.deadline = True, 0  # stop after this instruction: the next may be another by now

    def _remapped(self):
        """Empty the cache if code of this address space lies elsewhere by now."""
        context, v = self._context(), self.v
        for (other, page), place in self.pages.items():
            if other == context:
                try:
                    if v.translate(page, False, False) == place:
                        continue
                except Trap:
                    pass
                self.stale = True

    # Running

    def enter(self, limit: int):
        """Run user code directly, or the kernel's translation, up to the next call for the monitor."""
        if self.stale:
            self.note("code written")
            self.flush()
        if self.v.cpl == 3:
            self.load()
            trap = self.cpu.execute(limit)
            self.unload()
            if trap is not None and not (trap.vector == PF and self.shadow.fault(trap)):
                self.emulate()
        elif limit == 1:
            self._call_out()  # one instruction of the guest may be several of the cache: this one is interpreted
        else:
            self._run_cache(limit)

    def _run_cache(self, limit: int):
        v, cpu, here = self.v, self.cpu, (self.v.eip, self._context())
        if self.resume is not None and self.resume[0] == here:
            place = self.resume[1]
        else:
            try:
                place = self._unit(v.eip)
            except Trap:
                return self._call_out()
        self.load()
        for index, segment in ((CS, _CODE), (GS, _STATE)):
            self.loaded[index] = segment
            cpu.set_segment(index, segment)
        self._put_state()
        cpu.eip = CACHE + place
        before = v.steps, v.cycles
        trap = cpu.execute(limit)
        place = cpu.eip - CACHE
        self.unload()
        v.steps = before[0] + v.cycles - before[1]  # the cache's own instructions are none of the guest's
        v.eip = self.origin[place]
        v.flags = v.flags & ~IF | (IF if self.host.memory.read(self.state_page + STATE["if"], 1) else 0)
        self.resume = (v.eip, self._context()), place
        if trap is not None:
            self._handle(trap, place)

    def _put_state(self):
        v = self.v
        state = {"if": bool(v.flags & IF), "tr": v.tr.selector, "ldtr": v.ldtr.selector}
        state |= {f"cr{i}": v.cr[i] for i in (0, 2, 3, 4)}
        state |= dict(zip(list(STATE)[7:], (s.selector for s in v.segs), strict=True))
        for name, value in state.items():
            self.host.memory.write(self.state_page + STATE[name], value, 4)

    def _handle(self, trap: Trap, place: int):
        v = self.v
        if trap.software and trap.vector == CHAIN:
            stubs, target = self.stubs, self.stubs[place]
            try:
                unit = self._unit(target)
            except Trap:  # the jump is still to be done, and what it leads to cannot be fetched
                self.resume = None
                return self._call_out() if v.eip != target else None
            if self.stubs is stubs:  # else the cache was emptied to make room
                self._chain(place, unit)
                self.note("chain")
        elif trap.software and trap.vector == INDIRECT:
            self.note("indirect")
            again = v.execute(1)
            if again is not None:
                self.note("reflect " + str(again).split("(")[0])
                v.reflect(again)
        elif trap.software and trap.vector == CALL_OUT:
            after = self._call_out()
            if v.eip == after and place + 2 in self.origin and self.origin[place + 2] == after:
                self.resume = (after, self._context()), place + 2
        elif trap.vector == PF:
            self.shadow.fault(trap)
        else:
            self._call_out()  # what faulted in the cache faults again where the guest has it

    def _call_out(self) -> int | None:
        """Do one instruction for the guest; return where the next one lies."""
        v, mnemonic = self.v, ""
        try:
            operation, after = v.fetch(v.eip)[1:]
            mnemonic = operation.insn.mnemonic
        except Trap:
            after = None
        self.emulate("call-out")
        if mnemonic in REMAPPING:
            self._remapped()
        return after

"""The processor: registers, the one checked way to memory, and the loop that fetches and executes.

What is left out: real, virtual-8086 and 16-bit modes (it starts in flat protected mode, as a boot loader leaves it, and
CR0.PE stays set), task switches and call gates, single stepping, floating point. The limit of the code segment is checked
when an instruction is fetched. An instruction, or one round of a repeated string instruction, takes one cycle; whoever
models something dearer adds to `cycles`.
"""

from collections.abc import Callable

from vlib.x86.alu import IF
from vlib.x86.bind import bind
from vlib.x86.board import NEVER, Board
from vlib.x86.decoder import CS, ESP, SS, Instruction, Undefined, decode
from vlib.x86.memory import PAGE, Memory, PageFault, Paging
from vlib.x86.segments import Descriptor, Segment
from vlib.x86.system import ET, PE, PG, PGE, PSE, WP
from vlib.x86.transfer import enter
from vlib.x86.traps import DE, DF, GP, MASK, NP, PF, STACK, TSS, UD, Trap

_CONTRIBUTORY = (DE, TSS, NP, STACK, GP)


def _freely(cpu, operation):
    operation.plain(cpu, operation)
    cpu.cycles -= 1


class CPU:
    """One processor with its memory and board, in flat protected mode at CPL 0.

    `hook`, if set, is asked before each instruction that touches system state (`system.HOOKED`): it may do the
    instruction itself and return True, or raise a `Trap` of its own. That is where a monitor with hardware support sits.

    >>> from vlib.x86.assembler import assemble
    >>> memory = Memory(4096)
    >>> memory.load(0, assemble("mov al, 'A' \\n out 0xe9, al \\n hlt").code)
    >>> cpu = CPU(memory)
    >>> cpu.run(10), cpu.steps, cpu.board.console.decode()
    ('halt', 3, 'A')
    """

    def __init__(self, memory: Memory, board: Board | None = None):
        self.memory, self.ram, self.watchers = memory, memory.bytes, memory.watchers
        self.board, self.paging, self.hook = board or Board(), Paging(memory), None
        self.regs, self.eip, self.flags = [0] * 8, 0, 2
        code, data = Descriptor(0, MASK, 0x9B, 0xC), Descriptor(0, MASK, 0x93, 0xC)
        self.segs = [Segment(0x10, data) for _ in range(6)]
        self.segs[CS] = Segment(0x08, code)
        self.ldtr, self.tr = Segment(0, None), Segment(0, None)
        self.gdtr, self.idtr = (0, 0xFFFF), (0, 0xFFFF)  # base and limit
        self.cr, self.dr = [PE | ET, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0xFFFF0FF0, 0x400]
        self.msr = {0x174: 0, 0x175: 0, 0x176: 0}
        self.cpuid = {0: (1, b"VirtualYouCa"), 1: (0x600, b"\0" * 12)}  # leaf -> EAX; EBX, EDX, ECX
        self.halted = self.shut_down = self.shadow = False  # shadow: no interrupt before the next instruction is done
        self.steps = self.cycles = self.deadline = 0
        self.free = set()  # physical addresses of instructions that take no cycle: a monitor's own among a guest's
        self.decoded, self.fetched = (
            {},
            {},
        )  # physical page -> {offset: operation}; EIP -> what to do, while CS and TLB last
        self.set_cpl(0)

    def set_cpl(self, cpl: int):
        """Set the privilege level, and with it the half of the TLB that applies: rings 0 to 2 are all supervisor."""
        self.cpl, self.user = cpl, cpl == 3
        self.reads, self.writes = self.paging.tlb[2 * self.user : 2 * self.user + 2]
        self.fetched.clear()

    def set_segment(self, index: int, segment: Segment):
        """Fill a segment register."""
        self.segs[index] = segment
        if index == CS:
            self.fetched.clear()

    def set_hook(self, hook: Callable[["CPU", Instruction], bool] | None):
        """Set or remove the hook; what was decoded without it is forgotten."""
        self.hook = hook
        for operations in self.decoded.values():
            operations.clear()
        self.fetched.clear()

    def set_cr(self, number: int, value: int):
        """Write a control register, with what follows for paging; the checks are the instruction's."""
        old, self.cr[number] = self.cr[number], value
        paging = self.paging
        paging.enabled, paging.write_protect = bool(self.cr[0] & PG), bool(self.cr[0] & WP)
        paging.root, paging.large = self.cr[3] & -PAGE, bool(self.cr[4] & PSE)
        if number == 3 or (number == 0 and (old ^ value) & (PG | WP)) or (number == 4 and (old ^ value) & (PSE | PGE)):
            self.flush()

    def flush(self):
        """Forget all translations of addresses."""
        self.paging.flush()
        self.fetched.clear()

    # Memory: everything a guest does to memory comes through load and store, everything the processor does on its own
    # (descriptors, gates, task state) through read_linear and write_linear.

    def load(self, seg: int, offset: int, size: int) -> int:
        """Read `size` bytes at an offset of a segment, or raise `Trap`."""
        segment = self.segs[seg]
        if not segment.first <= offset <= segment.read_end - size:
            raise Trap(STACK if seg == SS else GP, 0)
        linear = segment.base + offset & MASK
        page, at = self.reads.get(linear >> 12), linear & 0xFFF
        if page is None or at > PAGE - size:
            return self.read_linear(linear, size, self.user)
        at += page
        return int.from_bytes(self.ram[at : at + size], "little")

    def load_to_write(self, seg: int, offset: int, size: int) -> int:
        """Read what the same instruction then writes: already the read asks for the right to write."""
        segment = self.segs[seg]
        if not segment.first <= offset <= segment.write_end - size:
            raise Trap(STACK if seg == SS else GP, 0)
        linear = segment.base + offset & MASK
        if linear >> 12 not in self.writes or linear & 0xFFF > PAGE - size:
            self._pieces(linear, size, self.user, True)
        return self.load(seg, offset, size)

    def store(self, seg: int, offset: int, size: int, value: int):
        """Write `size` bytes at an offset of a segment, or raise `Trap`."""
        segment = self.segs[seg]
        if not segment.first <= offset <= segment.write_end - size:
            raise Trap(STACK if seg == SS else GP, 0)
        linear = segment.base + offset & MASK
        page, at = self.writes.get(linear >> 12), linear & 0xFFF
        if page is None or at > PAGE - size:
            return self.write_linear(linear, size, value, self.user)
        at += page
        self.ram[at : at + size] = value.to_bytes(size, "little")
        if page in self.watchers:
            self.memory.notify(page)

    def translate(self, linear: int, user: bool, write: bool) -> int:
        """Return the physical address of a linear one, or raise `Trap`."""
        page = self.paging.tlb[2 * user + write].get(linear >> 12)
        if page is None:
            try:
                page = self.paging.translate(linear, user, write)
            except PageFault as fault:
                raise Trap(PF, fault.error, fault.address) from None
        return page + (linear & 0xFFF)

    def _pieces(self, linear, size, user, write):
        """Cut an access at a page boundary; translate both parts before either is touched."""
        here = min(size, PAGE - (linear & 0xFFF))
        parts = [(linear, here)] if here == size else [(linear, here), (linear + here & MASK, size - here)]
        return [(self.translate(part, user, write), length) for part, length in parts]

    def read_linear(self, linear: int, size: int, user: bool = False) -> int:
        """Read at a linear address, by default with the rights of the processor itself."""
        value = shift = 0
        for place, length in self._pieces(linear, size, user, False):
            value |= self.memory.read(place, length) << shift
            shift += 8 * length
        return value

    def write_linear(self, linear: int, size: int, value: int, user: bool = False):
        """Write at a linear address, by default with the rights of the processor itself."""
        for place, length in self._pieces(linear, size, user, True):
            self.memory.write(place, value & (1 << 8 * length) - 1, length)
            value >>= 8 * length

    def push(self, value: int, size: int = 4):
        """Push a number; ESP moves only if the write was allowed."""
        top = self.regs[ESP] - size & MASK
        self.store(SS, top, size, value)
        self.regs[ESP] = top

    # Fetching: `fetched` finds what to do by EIP alone; it is emptied whenever EIP may come to mean something else.

    def fetch(self, eip: int):
        """Return what to do at an EIP: how to run it, the bound operation, and the EIP after it; or raise `Trap`."""
        code = self.segs[CS]
        if eip >= code.descriptor.limit + 1:
            raise Trap(GP, 0)
        linear = code.base + eip & MASK
        place = self.translate(linear, self.user, False)
        page, at = place & -PAGE, place & 0xFFF
        operations = self.decoded.get(page) or self._watched(page)
        operation = operations.get(at)
        if operation is None:
            data = self.memory.copy(place, min(15, PAGE - at))
            try:
                operation = operations[at] = self._bind(data, place)
            except IndexError:
                operation = self._fetch_across(data, linear + len(data) & MASK, place)
            except Undefined:
                raise Trap(UD) from None
        if eip + operation.length > code.descriptor.limit + 1:
            raise Trap(GP, 0)
        self.fetched[eip] = entry = (operation.run, operation, eip + operation.length & MASK)
        return entry

    def _bind(self, data: bytes, place: int):
        operation = bind(self, decode(data))
        if place in self.free:
            operation.plain, operation.run = operation.run, _freely
        return operation

    def _fetch_across(self, data: bytes, linear: int, first: int):
        """Decode an instruction that goes on in the next page; it is not kept with its page, only by EIP."""
        if len(data) == 15:
            raise Trap(GP, 0)  # no instruction is longer
        place = self.translate(linear, self.user, False)
        self._watched(place & -PAGE)
        try:
            return self._bind(data + self.memory.copy(place, 15 - len(data)), first)
        except IndexError:
            raise Trap(GP, 0) from None
        except Undefined:
            raise Trap(UD) from None

    def _watched(self, page: int) -> dict:
        """Return what was decoded in a page, from now on until the page is written."""
        if page not in self.decoded:
            self.decoded[page] = {}
            self.memory.watch(page, self._forget)
        return self.decoded[page]

    def _forget(self, page: int):
        self.decoded.pop(page, None)
        self.fetched.clear()

    def execute(self, limit: int = 1) -> Trap | None:
        """Execute up to `limit` instructions, up to a trap, which is returned and *not* delivered.

        None: the limit is reached, the processor is halted, or an interrupt may be due (`poll`).
        """
        self.deadline, fetched, done = self._attention(), self.fetched, 0
        eip = self.eip
        try:
            for done in range(1, limit + 1):  # noqa: B007
                eip = self.eip
                run, operation, self.eip = fetched.get(eip) or self.fetch(eip)
                run(self, operation)
                self.cycles += 1
                if self.cycles >= self.deadline:
                    break
        except Trap as trap:
            self.steps += done - 1
            trap.eip, trap.next, self.eip = eip, self.eip if trap.software else eip, eip
            return trap
        self.steps += done
        return None

    def _attention(self) -> int:
        """Return the cycle at which the loop has to look up: at once, or when the timer is due."""
        return 0 if self.flags & IF and self.board.interrupting() else self.board.deadline

    def poll(self) -> bool:
        """Take an interrupt if one is due, waiting for it when halted; return whether there is a way on."""
        self.board.advance(self.cycles)
        if self.halted:
            if self.board.deadline != NEVER and self.flags & IF and not self.board.interrupting():
                self.cycles = max(self.cycles, self.board.deadline)
                self.board.advance(self.cycles)
            if not (self.flags & IF and self.board.interrupting()):
                return False
        if self.shadow:
            self.shadow = False
        elif self.flags & IF and self.board.interrupting():
            self.halted = False
            self.deliver(self.board.acknowledge(), None, self.eip)
        return not self.shut_down

    def step(self) -> Trap | None:
        """Execute one instruction as a processor without a monitor does; return the trap that it delivered, if any."""
        trap = self.execute(1) if self.poll() else None
        if trap is not None:
            self.reflect(trap)
        return trap

    def run(self, limit: int) -> str:
        """Run without a monitor for up to `limit` steps; return "limit", "halt" or "shutdown".

        A step is an instruction, or the delivery of an exception.
        """
        end = self.steps + limit
        while self.steps < end:
            if not self.poll():
                return "shutdown" if self.shut_down else "halt"
            trap = self.execute(end - self.steps)
            if trap is not None:
                self.reflect(trap)
        return "shutdown" if self.shut_down else "limit"

    def reflect(self, trap: Trap):
        """Deliver a trap through the guest's own IDT, as one step."""
        self.steps += 1
        self.cycles += 1
        if trap.address is not None:
            self.cr[2] = trap.address
        self.deliver(trap.vector, trap.error, trap.next, trap.software)

    def deliver(self, vector: int, error: int | None, back: int, software: bool = False):
        """Enter the handler of a vector; faults on the way become a double fault, and then a shutdown."""
        for _ in range(8):
            try:
                return enter(self, vector, error, back, software)
            except Trap as second:
                software, back = False, self.eip
                if vector == DF:
                    break
                severe = second.vector in _CONTRIBUTORY
                if (vector == PF and (severe or second.vector == PF)) or (vector in _CONTRIBUTORY and severe):
                    vector, error = DF, 0
                else:
                    vector, error = second.vector, second.error
                if second.address is not None:
                    self.cr[2] = second.address
        self.shut_down = self.halted = True
        self.deadline = 0

    def save(self) -> dict:
        """Return the whole state but memory as plain data; with a copy of `memory.bytes` it is a snapshot."""
        plain = ("eip", "flags", "gdtr", "idtr", "cpl", "halted", "shut_down", "shadow", "steps", "cycles")
        state = {name: getattr(self, name) for name in plain}
        state |= {name: list(getattr(self, name)) for name in ("regs", "cr", "dr")}
        state["segs"] = [(s.selector, tuple(s.descriptor)) for s in (*self.segs, self.ldtr, self.tr)]
        return {**state, "msr": dict(self.msr), "board": self.board.save()}

    def restore(self, state: dict):
        """Take a state that `save` gave; memory is the caller's to restore."""
        state = dict(state)
        *segs, self.ldtr, self.tr = (Segment(s, Descriptor(*d) if any(d) else None) for s, d in state.pop("segs"))
        self.segs[:], self.regs[:], self.cr[:] = segs, state.pop("regs"), state.pop("cr")
        self.board.restore(state.pop("board"))
        self.dr, self.msr = list(state.pop("dr")), dict(state.pop("msr"))
        self.set_cpl(state.pop("cpl"))
        for name, value in state.items():
            setattr(self, name, value)
        for number in (0, 3, 4):
            self.set_cr(number, self.cr[number])
        self.flush()

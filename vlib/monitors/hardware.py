"""Hardware assistance: the guest in non-root mode, in all of its four rings, and a trap into the monitor where one was asked for.

VT-x *is* trap-and-emulate, with the x86's missing traps added: instructions that the guest may run freely act on the
guest's own copy of the state (POPF on its IF, LGDT on its table), the others exit to root mode. Some exits are configured
in the VMCS; CPUID, INVD, VMCALL, RDMSR and WRMSR (no bit map of MSRs is modelled) and a triple fault always happen.
"""

from vlib.guests import Guest
from vlib.monitors.base import Host, Monitor
from vlib.monitors.shadow import Shadow
from vlib.monitors.vmcs import VMCS, Controls
from vlib.x86.alu import IF
from vlib.x86.bind import bind
from vlib.x86.board import NEVER
from vlib.x86.cpu import CPU
from vlib.x86.decoder import EDX, Reg
from vlib.x86.memory import PAGE
from vlib.x86.system import EM, MP, PG, PSE, TS, WP, check_cr, check_port
from vlib.x86.table import PRIVILEGED
from vlib.x86.transfer import enter
from vlib.x86.traps import PF, Trap

ALWAYS = ("cpuid", "invd", "vmcall", "rdmsr", "wrmsr")  # exits that no control can switch off
SHADOW_CONTROLS = Controls(
    invlpg=True, cr3_load=True, cr3_store=True, exceptions=1 << PF, cr0_mask=PG | WP, cr4_mask=PSE
)


class _Leave(Trap):
    """An event in non-root mode that exits to root mode, before it had any effect."""

    def __init__(self, reason: str, qualification: int = 0):
        super().__init__(0)
        self.reason, self.qualification = reason, qualification


class Hardware(Monitor):
    r"""A guest in non-root mode; `nested` False: without nested paging, on shadow page tables.

    `entries` counts the VM entries; each ends in an exit, or in a HLT that does not exit.

    >>> from vlib.guests import guest
    >>> monitor = Hardware(guest("popf"))
    >>> monitor.run(), monitor.console, monitor.counts()["hlt"]
    ('halt', '00000003', 1)
    """

    interrupt_exits = False  # it is injected at an entry; what made the processor exit is in the trace

    def __init__(self, guest: Guest, host: Host | None = None, nested: bool = True, controls: Controls | None = None):
        super().__init__(guest, host)
        self.cpu, self.entries, self.ept = self.host.cpu, 0, {}
        self.shadow = None if nested else Shadow(self)
        self.controls = controls or (Controls() if nested else SHADOW_CONTROLS)
        if not nested:
            missing = [n for n, need in SHADOW_CONTROLS._asdict().items() if need and getattr(self.controls, n) != need]
            if missing:
                raise ValueError(f"controls without {', '.join(missing)}: shadow paging needs them")
        self.vmcs = VMCS(self.host.memory, self.host.take(PAGE))
        self.ports = self.host.take(2 * PAGE)  # a bit for each of the 65536 ports
        ports = range(1 << 16) if self.controls.ports is None else self.controls.ports
        bits = bytearray(2 * PAGE)
        for port in ports:
            bits[port // 8] |= 1 << port % 8
        self.host.memory.load(self.ports, bytes(bits))
        for name, value in self.controls._asdict().items():
            if name != "ports":
                self.vmcs.write(name, value)
        self.vmcs.write("io_bitmap", self.ports)
        self.vmcs.write("nested_paging", nested)
        self.v.deliver = self._inject

    # The processor's part: what non-root mode does.

    def _hook(self, cpu: CPU, insn) -> bool:
        """Decide on an instruction that touches system state: exit, do it on the guest's own copy, or leave it alone."""
        name, operands, read = insn.mnemonic, insn.operands, self.vmcs.read
        if name in PRIVILEGED and cpu.cpl:
            return False  # #GP comes before any exit
        if name in ALWAYS or (name in ("hlt", "invlpg", "rdtsc") and read(name)):
            raise _Leave(name)
        if name in ("in", "out"):
            port, width = operands if name == "out" else operands[::-1]
            number = port.value if not isinstance(port, Reg) else cpu.regs[EDX] & 0xFFFF
            check_port(cpu, number, width.size)
            bits = cpu.memory.read(read("io_bitmap") + number // 8, 2) >> number % 8
            if bits & (1 << width.size) - 1:
                raise _Leave(f"{name} {number:#x}", number)
        elif name == "mov_cr":
            return self._control_register(cpu, *operands)
        elif (name == "clts" and read("cr0_mask") & read("cr0_shadow") & TS) or (
            name == "lmsw" and read("cr0_mask") & (MP | EM | TS)
        ):
            raise _Leave("cr0 write")
        elif name == "smsw" and read("cr0_mask"):
            return self._smsw(cpu, insn)
        return False

    def _seen(self, cpu, number: int) -> int:
        """Return a control register as the guest reads it: the bits in the mask come from the read shadow."""
        mask = self.vmcs.read(f"cr{number}_mask")
        return cpu.cr[number] & ~mask | self.vmcs.read(f"cr{number}_shadow") & mask

    def _smsw(self, cpu, insn) -> bool:
        operation, real = bind(cpu, insn), cpu.cr[0]
        cpu.cr[0] = self._seen(cpu, 0)
        try:
            operation.plain(cpu, operation)
        finally:
            cpu.cr[0] = real
        return True

    def _control_register(self, cpu, first, second) -> bool:
        read, writing = self.vmcs.read, first.kind == "c"
        number, register = (first.number, second.number) if writing else (second.number, first.number)
        if number == 3 and read("cr3_load" if writing else "cr3_store"):
            raise _Leave("cr3 write" if writing else "cr3 read")
        if number not in (0, 4) or not (mask := read(f"cr{number}_mask")):
            return False
        if not writing:
            cpu.regs[register] = self._seen(cpu, number)
            return True
        value = check_cr(number, cpu.regs[register])
        if (value ^ read(f"cr{number}_shadow")) & mask:
            raise _Leave(f"cr{number} write")
        cpu.set_cr(number, value & ~mask | cpu.cr[number] & mask)
        return True

    def _place_nested(self, page: int) -> int:
        """Translate a guest-physical page by the nested page table; a page not yet in it exits."""
        if page < self.guest.memory and page not in self.ept:
            raise _Leave("EPT violation", page)
        return self.ept.get(page, self.host.memory.size)

    def _event(self, cpu, vector: int, error: int | None, back: int, software: bool) -> Trap | None:
        """Deliver an event through the guest's own table; return an exit that came in between."""
        try:
            enter(cpu, vector, error, back, software)
        except _Leave as leave:
            return leave
        except Trap as second:
            if second.vector == PF and self.vmcs.read("exceptions") >> PF & 1:
                return _Leave("#PF in delivery")
            CPU.deliver(cpu, vector, error, back, software)
        return None

    def _non_root(self, cpu: CPU, limit: int) -> str:
        """Run in non-root mode until something exits; return the reason, "" for a halt that does not."""
        end, vmcs = cpu.steps + limit, self.vmcs
        if vmcs.read("entry_event"):
            leave = self._event(cpu, *self._entry_event())
            if leave is not None:
                return self._left(leave)
            vmcs.write("entry_event", 0)
        while True:
            if cpu.shut_down:
                return "triple fault"
            if cpu.halted:
                return ""
            if cpu.cycles >= cpu.board.deadline:
                return "external interrupt"
            if cpu.steps >= end:
                return "preemption timer"
            step = end - cpu.steps
            if cpu.shadow:  # no interrupt before one more instruction is done
                step, cpu.shadow = 1, False
            elif cpu.flags & IF and vmcs.read("interrupt_window"):
                return "interrupt window"
            trap = cpu.execute(step)
            if isinstance(trap, _Leave):
                return self._left(trap)
            if trap is None:
                continue
            if vmcs.read("exceptions") >> trap.vector & 1 and not trap.software:
                vmcs.write("exit_vector", trap.vector)
                vmcs.write("exit_error", trap.error or 0)
                vmcs.write("qualification", trap.address or 0)
                self.trap = trap
                return str(trap).split("(")[0]
            cpu.steps, cpu.cycles = cpu.steps + 1, cpu.cycles + 1
            if trap.address is not None:
                cpu.cr[2] = trap.address
            leave = self._event(cpu, trap.vector, trap.error, trap.next, trap.software)
            if leave is not None:
                self._inject(trap.vector, trap.error, trap.next, trap.software)  # what was under way comes again
                return self._left(leave)

    def _left(self, leave: _Leave) -> str:
        self.vmcs.write("qualification", leave.qualification)
        return leave.reason

    # The hypervisor's part: root mode.

    def poll(self) -> bool:
        """Look after interrupts, unless an event is to be injected first: there is room for one."""
        return bool(self.vmcs.read("entry_event")) or super().poll()

    def _inject(self, vector: int, error: int | None, back: int, software: bool = False):
        """Ask for an event at the next entry; this stands where the virtual processor would deliver it itself."""
        kind = 1 | (error is not None) << 1 | software << 2  # valid, with an error code, by INT n
        for field, value in (("event", kind), ("vector", vector), ("error", error or 0), ("return", back)):
            self.vmcs.write(f"entry_{field}", value)

    def _entry_event(self) -> tuple:
        kind, vector, error, back = (self.vmcs.read(f"entry_{f}") for f in ("event", "vector", "error", "return"))
        return vector, error if kind & 2 else None, back, bool(kind & 4)

    def enter(self, limit: int):
        """Enter the guest: write what the hypervisor changed, VMRESUME; and after the exit handle its reason."""
        v, cpu, vmcs = self.v, self.cpu, self.vmcs
        vmcs.save("guest", v)
        if self.shadow is not None:
            for number, value in ((0, v.cr[0] | PG | WP), (3, self.shadow.root()), (4, v.cr[4] & ~PSE)):
                vmcs.write(f"guest_cr{number}", value)
        vmcs.write("cr0_shadow", v.cr[0])
        vmcs.write("cr4_shadow", v.cr[4])
        vmcs.write("interrupt_window", v.board.interrupting() and bool(vmcs.read("entry_event") or not v.flags & IF))
        if cpu.hook != self._hook:
            cpu.set_hook(self._hook)
        host_regs, host_dr, host_cr2 = list(cpu.regs), cpu.dr, cpu.cr[2]
        cpu.regs[:], cpu.cr[2], cpu.dr = v.regs, v.cr[2], v.dr  # the processor leaves these to software
        cpu.steps, cpu.cycles, cpu.board.deadline = v.steps, v.cycles, v.board.deadline
        vmcs.save("host", cpu)
        cpu.paging.nested = self._place_nested if self.shadow is None else None
        vmcs.load("guest", cpu)  # flushes all translations, as processors without tags for them must
        self.entries += 1
        reason = self._non_root(cpu, limit)
        vmcs.save("guest", cpu)
        v.regs[:], v.cr[2], v.steps, v.cycles = cpu.regs, cpu.cr[2], cpu.steps, cpu.cycles
        cpu.regs[:], cpu.dr, cpu.cr[2], cpu.shut_down = host_regs, host_dr, host_cr2, False
        vmcs.load("host", cpu)
        self._take_back()
        self._handle(reason)

    def _take_back(self):
        """Bring the virtual processor up to what the guest did; of the bits in the masks the shadows tell."""
        v, vmcs = self.v, self.vmcs
        for number in (0, 4):
            mask, seen = vmcs.read(f"cr{number}_mask"), vmcs.read(f"cr{number}_shadow")
            vmcs.write(f"guest_cr{number}", vmcs.read(f"guest_cr{number}") & ~mask | seen & mask)
        if self.shadow is not None:
            vmcs.write("guest_cr3", v.cr[3])
        vmcs.load("guest", v)

    def _handle(self, reason: str):
        v, paging = self.v, (self.v.cr[0], self.v.cr[4])
        if reason == "":  # halted in non-root mode; if it will ever wake, by an exit
            if v.flags & IF and v.board.deadline != NEVER:
                self.note("external interrupt")
            return
        if reason == "#PF" and self.shadow is not None:
            return self.shadow.fault(self.trap)
        self.note(reason)
        if reason in ("preemption timer", "external interrupt", "interrupt window"):
            return  # the loop looks after interrupts
        if reason == "triple fault":
            v.shut_down = v.halted = True
        elif reason == "EPT violation":
            page = self.vmcs.read("qualification")
            self.ept[page] = self.place(page)
        elif reason == "#PF in delivery":  # the hypervisor ends it, on the guest's own tables
            event = self._entry_event()
            self.vmcs.write("entry_event", 0)
            CPU.deliver(v, *event)
        elif reason.startswith("#"):
            v.reflect(self.trap)
        else:
            trap = v.execute(1)
            if trap is not None:
                v.reflect(trap)
            if self.shadow is not None and paging != (v.cr[0], v.cr[4]):
                self.shadow.clear()

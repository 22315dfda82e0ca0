"""Guest programs in assembly: a kernel small enough to read, and a smaller one for each hole of the architecture.

All start as a boot loader leaves them: flat protected mode, ring 0, interrupts off, at their first byte. They know nothing
of where they run; what they print on the console (port 0xe9) is how one tells.
"""

from dataclasses import dataclass

from vlib.x86.assembler import Program, assemble
from vlib.x86.board import Board
from vlib.x86.cpu import CPU
from vlib.x86.memory import PAGE, Memory

TIMER = """
        mov al, 0x11                    ; interrupt controller: the timer is vector 0x20, nothing else comes
        out 0x20, al
        mov al, 0x20
        out 0x21, al
        mov al, 4
        out 0x21, al
        mov al, 1
        out 0x21, al
        mov al, 0xfe
        out 0x21, al
        mov al, 0x34                    ; timer: a tick each 64 of its periods
        out 0x43, al
        mov al, 64
        out 0x40, al
        mov al, 0
        out 0x40, al
"""

# Descriptor and pointer tables that every guest below brings along: kernel and user code and data, one task state.
TABLES = """
        align 8
gdt:    dd 0, 0
        dd 0x0000ffff, 0x00cf9b00               ; 08 kernel code
        dd 0x0000ffff, 0x00cf9300               ; 10 kernel data
        dd 0x0000ffff, 0x00cffb00               ; 18 user code
        dd 0x0000ffff, 0x00cff300               ; 20 user data
        dd (task & 0xffff) << 16 | 0x67         ; 28 task state
        dd task & 0xff000000 | 0x8900 | task >> 16 & 0xff
        dd gdt << 16 & 0xffff0000 | 7           ; 30 a local table: the first entry of this one
        dd gdt & 0xff000000 | 0x8200 | gdt >> 16 & 0xff
gdtr:   dw 55
        dd gdt
idtr:   dw 8 * 0x81 - 1
        dd idt
task:   dd 0, boot_top, 0x10                    ; the stack for ring 0
        space 0x68 - 12
"""

KERNEL = (
    """
; A kernel for two processes. It boots, serves their system calls, gives each a page when it first touches it, and
; switches between them at every tick of the timer.
user    equ 0x400000                    ; where a process has its code; its own page follows
start:  cli
        lgdt [gdtr]
        lidt [idtr]
        jmpf 0x08:flat
flat:   mov eax, 0x10
        mov ss, ax
        mov esp, boot_top
        mov eax, 0x23                   ; data is the user's in both rings: a return to ring 3 would clear any other
        mov ds, ax
        mov es, ax
        mov eax, 0x28
        ltr ax

        mov edi, low_table              ; the kernel sees its memory where it is; no user may
        mov eax, 3
        mov ecx, end >> 12
map:    stosd
        add eax, 0x1000
        loop map
        mov eax, directory_a
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80010000              ; paging, and read-only pages are so for the kernel too
        mov cr0, eax

"""
    + TIMER
    + """
        mov ecx, 0
        jmp enter_process

timer:  pushad
        mov al, 0x20
        out 0x20, al                    ; end of interrupt
        call switch
resume: popad
        iretd

switch: mov ebx, [current]              ; to the other process, if it still lives
        mov ecx, ebx
        xor ecx, 1
        cmp dword ptr [alive + ecx*4], 0
        je stay
        mov [saved + ebx*4], esp
enter_process:
        mov [current], ecx
        mov esp, [saved + ecx*4]
        mov eax, [tops + ecx*4]
        mov [task + 4], eax
        mov eax, [directories + ecx*4]
        mov cr3, eax
stay:   ret

system: cmp eax, 1
        jne leave_process
        push eax
        pushfd                          ; a critical section as every kernel has it:
        cli                             ; what is printed must not be torn apart
        mov al, bl
        out 0xe9, al
        popfd                           ; as it was before
        pop eax
        iretd

leave_process:
        cli
        mov ebx, [current]
        mov dword ptr [alive + ebx*4], 0
        call switch                     ; comes back only if no one is left
        mov al, 10
        out 0xe9, al
halt:   cli
        hlt
        jmp halt

page:   pushad                          ; a page fault: the process may have its page
        mov eax, cr2
        and eax, 0xfffff000
        cmp eax, user + 0x1000
        jne fault
        mov ebx, [current]
        mov ecx, [tables + ebx*4]
        mov edx, [pages + ebx*4]
        mov [ecx + 4], edx
        invlpg [user + 0x1000]
        popad
        add esp, 4                      ; the error code
        iretd

fault:  mov al, '!'                     ; any other exception ends the process
        out 0xe9, al
        jmp leave_process

        align 4096
data:
current: dd 0
alive:  dd 1, 1
saved:  dd first_a, first_b
tops:   dd stack_a + 0x1000, stack_b + 0x1000
directories: dd directory_a, directory_b
tables: dd table_a, table_b
pages:  dd page_a | 7, page_b | 7
"""
    + TABLES
    + """
        align 8
idt:    dd 0x80000 | fault & 0xffff, fault & 0xffff0000 | 0x8e00
        org idt + 8 * 6
        dd 0x80000 | fault & 0xffff, fault & 0xffff0000 | 0x8e00
        org idt + 8 * 13
        dd 0x80000 | fault & 0xffff, fault & 0xffff0000 | 0x8e00
        dd 0x80000 | page & 0xffff, page & 0xffff0000 | 0x8e00
        org idt + 8 * 0x20
        dd 0x80000 | timer & 0xffff, timer & 0xffff0000 | 0x8e00
        org idt + 8 * 0x80
        dd 0x80000 | system & 0xffff, system & 0xffff0000 | 0xef00
        space 256
boot_top:
        align 4096                      ; kernel stacks, each with what `resume` takes into a new process
stack_a: space 0x1000 - 14 * 4
first_a: dd resume, 0, 0, 0, 0, 'A', 0, 0, 0, user, 0x1b, 0x202, user + 0x2000, 0x23
stack_b: space 0x1000 - 14 * 4
first_b: dd resume, 0, 0, 0, 0, 'B', 0, 0, 0, user, 0x1b, 0x202, user + 0x2000, 0x23
directory_a: dd low_table + 3, table_a + 7
        align 4096
directory_b: dd low_table + 3, table_b + 7
        align 4096
table_a: dd process + 5                 ; read only; the page after it comes by page fault
        align 4096
table_b: dd process + 5
        align 4096
low_table: space 4096
page_a: space 4096
page_b: space 4096
process:                                ; what both processes run, at `user`: EBX holds the letter of each
        mov esi, 6
again:  mov eax, 1
        int 0x80
        inc dword ptr [user + 0x1000]
        mov ecx, 300
spin:   loop spin
        dec esi
        jnz again
        mov ebx, [user + 0x1000]        ; how often it went round
        add ebx, '0'
        mov eax, 1
        int 0x80
        mov eax, 0
        int 0x80
        align 4096
end:
"""
)

_HOLE = (
    """
start:  cli
        lgdt [gdtr]
        lidt [idtr]
        jmpf 0x08:flat
flat:   mov eax, 0x10
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov esp, boot_top
        mov eax, 0x28
        ltr ax
{body}
        mov ecx, 8                      ; print EAX in hexadecimal
digit:  rol eax, 4
        mov ebx, eax
        and ebx, 15
        mov dl, [digits + ebx]
        xchg eax, edx
        out 0xe9, al
        xchg eax, edx
        loop digit
        cli
halt:   hlt
        jmp halt
timer:  push eax
        inc dword ptr [ticks]
        mov al, 0x20
        out 0x20, al
        pop eax
        iretd
        align 4096
digits: db "0123456789abcdef"
ticks:  dd 0
where:  dd 0, 0
"""
    + TABLES
    + """
        align 8
idt:    space 8 * 0x20
        dd 0x80000 | timer & 0xffff, timer & 0xffff0000 | 0x8e00
        org idt + 8 * 0x81
        space 512
boot_top:
        align 4096
"""
)

# What each hole's kernel prints natively, why, and how it asks.
_BODIES = {
    "popf": TIMER
    + """
        sti
        pushfd                          ; a critical section
        cli
        popfd                           ; its end: interrupts are on again, or so the kernel believes
        mov ecx, 3500
wait:   loop wait
        mov eax, [ticks]                ; 3 ticks came; none where popf kept quiet about IF
""",
    "pushf": """
        cli
        pushfd                          ; IF must be off now
        pop eax
        and eax, 0x200
""",
    "push_cs": """
        push cs                         ; the kernel's ring
        pop eax
        and eax, 3
""",
    "mov_ss": """
        mov eax, ss
        and eax, 3
""",
    "smsw": """
        mov eax, cr0
        or eax, 8                       ; set TS,
        mov cr0, eax
        smsw ax                         ; and look at it by the way that does not trap
        and eax, 8
""",
    "sgdt": """
        sgdt [where]
        movzx eax, word ptr [where]     ; the limit of the kernel's own table
""",
    "sidt": """
        sidt [where]
        movzx eax, word ptr [where]
""",
    "str": """
        str ax
        movzx eax, ax                   ; the kernel's own task
""",
    "sldt": """
        mov eax, 0x30
        lldt ax
        sldt ax
        movzx eax, ax                   ; the local table that it has just loaded
""",
    "lar": """
        mov ecx, 0x10
        lar eax, ecx
        and eax, 0x6000                 ; the privilege level of its data: 0
""",
    "lsl": """
        mov ecx, 0x10
        lsl eax, ecx                    ; the limit of its data: all 4 GiB
""",
    "verw": """
        mov ecx, 0x11
        verw cx                         ; may ring 1 write the kernel's data? no
        setz al
        movzx eax, al
""",
}
HOLES = {name: _HOLE.replace("{body}", body.strip("\n")) for name, body in _BODIES.items()}
GUESTS = {"kernel": KERNEL, **HOLES}

# What they print when they run on the bare machine.
NATIVE = {
    "kernel": "AAAABBBBAA6BB6\n",
    "popf": "00000003", "pushf": "00000000", "push_cs": "00000000", "mov_ss": "00000000", "smsw": "00000008",
    "sgdt": "00000037", "sidt": "00000407", "str": "00000028", "sldt": "00000030", "lar": "00000000",
    "lsl": "ffffffff", "verw": "00000000",
}  # fmt: skip


@dataclass(frozen=True)
class Guest:
    """A guest ready to be loaded: its program at address 0, and the bytes of memory that it expects."""

    name: str
    program: Program
    memory: int


def make(name: str, text: str) -> Guest:
    """Assemble a guest of your own for address 0; it gets whole pages of memory, at least one.

    >>> make("idle", "cli \\n hlt").memory
    4096
    """
    program = assemble(text)
    return Guest(name, program, max(1, -(-len(program.code) // PAGE)) * PAGE)


def guest(name: str) -> Guest:
    """Assemble one of `GUESTS`; raises ValueError for an unknown one.

    >>> guest("push_cs").memory
    8192
    """
    if name not in GUESTS:
        raise ValueError(f"guest {name!r}, allowed: {', '.join(GUESTS)}")
    return make(name, GUESTS[name])


def boot(guest: Guest) -> CPU:
    r"""Put a guest into a machine of its own, about to execute its first instruction.

    >>> cpu = boot(guest("kernel"))
    >>> cpu.run(100_000), cpu.board.console.decode()
    ('halt', 'AAAABBBBAA6BB6\n')
    """
    memory = Memory(guest.memory)
    memory.load(guest.program.origin, guest.program.code)
    cpu = CPU(memory, Board())
    cpu.eip = guest.program.origin
    return cpu


def finish(cpu: CPU, guest: Guest, limit: int = 1_000_000) -> CPU:
    """Run a booted guest until it halts; raises ValueError with line and text if it does not, or shuts down.

    >>> finish(boot(guest("popf")), guest("popf")).board.console.decode()
    '00000003'
    >>> busy = make("busy", "nop \\n here: jmp here")
    >>> finish(boot(busy), busy, limit=1000)
    Traceback (most recent call last):
    ValueError: busy still runs after 1000 steps, at line 2: jmp here
    """
    end = cpu.run(limit)
    if end == "halt":
        return cpu
    said = "shut down by a triple fault" if end == "shutdown" else f"still runs after {limit} steps"
    raise ValueError(f"{guest.name} {said}, at {guest.program.where(cpu.eip)}")

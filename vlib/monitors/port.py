"""The port of guest kernels to the paravirtual monitor, as replacements in their source: what a closed-source guest lacks."""

from difflib import unified_diff

from vlib.guests import GUESTS, TIMER, Guest, make

HYPERCALL = 0x82  # the vector, as Xen's
CALLS = (
    "set_shared", "set_gdt", "set_traps", "set_timer", "stack_switch", "new_base", "mmu_update", "console", "iret",
    "block", "check",
)  # fmt: skip
# The page that guest and monitor share: the guest's interrupt flag, inverted; its one event; the fault's address.
MASK, PENDING, CR2 = 0, 4, 8


def _call(name: str, *arguments: str) -> str:
    """Return the text of a hypercall: arguments in EBX and ECX, number and result in EAX."""
    loads = [f"        mov {register}, {value}" for register, value in zip(("ebx", "ecx"), arguments, strict=False)]
    return "\n".join([*loads, f"        mov eax, {CALLS.index(name)}          ; {name}", f"        int {HYPERCALL:#x}"])


_SHARED = "shared: dd 1, 0, 0                    ; events masked, event pending, address of a page fault\n"
_IRET = f"        push eax\n{_call('iret')}"
_CHECK = f"""        cmp dword ptr [shared + {PENDING}], 0
        je {{0}}                          ; nothing came while events were masked
{_call("check")}
{{0}}:"""
_BOOT = """start:  cli
        lgdt [gdtr]
        lidt [idtr]
        jmpf 0x08:flat
"""
_PORTED_BOOT = "start:\n" + "\n".join(
    (
        _call("set_shared", "shared"),
        "        mov edx, eax                    ; where the machine has this kernel's memory",
        _call("set_gdt", "gdt", "55"),
        _call("set_traps", "idt", "8 * 0x81"),
        "        jmpf 0x09:flat\n",
    )
)
_EVENT = f"        mov dword ptr [shared + {PENDING}], 0\n"
_COMMON = [(_BOOT, _PORTED_BOOT), (TIMER, "\n" + _call("set_timer", "64") + "\n"), ("        iretd", _IRET)]

_KERNEL = [
    *_COMMON,
    ("flat:   mov eax, 0x10\n", "flat:   mov eax, 0x11                   ; ring 1\n"),
    ("        mov eax, 0x28\n        ltr ax\n", ""),
    ("        mov edi, low_table              ; the kernel sees its memory where it is; no user may\n        mov eax, 3\n",
     "        mov edi, low_table              ; the kernel sees its memory where it is; no user may\n        lea eax, [edx + 3]\n"),
    ("""        mov eax, directory_a
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80010000              ; paging, and read-only pages are so for the kernel too
        mov cr0, eax
""", """        mov edi, low_table + (directory_a >> 12) * 4
        mov ecx, 5
seal:   and dword ptr [edi], 0xfffffffd ; its page tables it may only read
        add edi, 4
        loop seal
        mov edi, relocated
        mov ecx, 12
place:  mov esi, [edi]                  ; tables name pages of the machine
        add [esi], edx
        add edi, 4
        loop place
"""),
    ("        mov al, 0x20\n        out 0x20, al                    ; end of interrupt\n", _EVENT),
    ("        mov [task + 4], eax\n", "        mov ebx, eax\n" + _call("stack_switch") + "\n"),
    ("        mov cr3, eax\n", "        mov ebx, eax\n" + _call("new_base") + "\n"),
    ("""        pushfd                          ; a critical section as every kernel has it:
        cli                             ; what is printed must not be torn apart
        mov al, bl
        out 0xe9, al
        popfd                           ; as it was before
""", f"""        push dword ptr [shared + {MASK}]     ; a critical section as every kernel has it:
        mov dword ptr [shared + {MASK}], 1   ; what is printed must not be torn apart
{_call("console")}
        pop dword ptr [shared + {MASK}]      ; as it was before
{_CHECK.format("quiet")}
"""),
    ("leave_process:\n        cli\n", f"leave_process:\n        mov dword ptr [shared + {MASK}], 1\n"),
    ("        mov al, 10\n        out 0xe9, al\n", _call("console", "10") + "\n"),
    ("halt:   cli\n        hlt\n", f"halt:\n{_call('block')}\n"),
    ("        mov eax, cr2\n", f"        mov eax, [shared + {CR2}]\n"),
    ("        mov [ecx + 4], edx\n        invlpg [user + 0x1000]\n", """        add ecx, 4
        mov [request], ecx
        mov [request + 4], edx
""" + _call("mmu_update", "request", "1") + "\n"),
    ("fault:  mov al, '!'                     ; any other exception ends the process\n        out 0xe9, al\n",
     "fault:                          ; any other exception ends the process\n" + _call("console", "'!'") + "\n"),
    ("current: dd 0\n", _SHARED + """request: dd 0, 0
relocated: dd directory_a, directory_a + 4, directory_b, directory_b + 4, table_a, table_b
        dd directories, directories + 4, tables, tables + 4, pages, pages + 4
current: dd 0
"""),
]  # fmt: skip

_POPF = [
    *_COMMON,
    ("        mov ss, ax\n", "        mov edx, 0x11                   ; ring 1\n        mov ss, dx\n"),
    ("        mov eax, 0x28\n        ltr ax\n", ""),
    ("        sti\n", f"        mov dword ptr [shared + {MASK}], 0\n"),
    ("        pushfd                          ; a critical section\n        cli\n",
     f"        push dword ptr [shared + {MASK}]     ; a critical section\n        mov dword ptr [shared + {MASK}], 1\n"),
    ("        popfd                           ; its", f"        pop dword ptr [shared + {MASK}]      ; its"),
    ("        mov ecx, 3500\n", f"{_CHECK.format('quiet')}\n        mov ecx, 3500\n"),
    ("        out 0xe9, al\n", "        mov ebx, eax\n" + _call("console") + "\n"),
    ("        cli\nhalt:   hlt\n", f"        mov dword ptr [shared + {MASK}], 1\nhalt:\n{_call('block')}\n"),
    ("        mov al, 0x20\n        out 0x20, al\n", _EVENT),
    ("ticks:  dd 0\n", _SHARED + "ticks:  dd 0\n"),
]  # fmt: skip
PORTS = {"kernel": _KERNEL, "popf": _POPF}


def source(name: str) -> str:
    """Return the source of a ported guest; raises ValueError for one that has no port.

    >>> "popfd" in source("popf")
    False
    """
    if name not in PORTS:
        raise ValueError(f"no port of guest {name!r}, allowed: {', '.join(PORTS)}")
    text = GUESTS[name]
    for old, new in PORTS[name]:
        if old not in text:
            raise ValueError(f"the port of {name} replaces what is not there: {old.strip().splitlines()[0]!r}")
        text = text.replace(old, new)
    return text


def ported(name: str) -> Guest:
    """Assemble the port of a guest.

    >>> ported("kernel").name
    'kernel, ported'
    """
    return make(f"{name}, ported", source(name))


def diff(name: str) -> str:
    """Return what the port changed in the guest's source, as a unified diff.

    >>> print(diff("popf").splitlines()[0])
    --- popf
    """
    lines = GUESTS[name].splitlines(), source(name).splitlines()
    return "\n".join(unified_diff(*lines, name, f"{name}, ported", lineterm="", n=1))

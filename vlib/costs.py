"""Published numbers that the models are held against, each with its unit and its source (keys of `references.bib`)."""

# Live migration of a web server and of a game server with Xen [Clark05, Figures 8 to 10]: MB (decimal) sent in each
# round, the last one with the guest stopped; the rates are those of the rule in Section 5.3.
CLARK05_SPECWEB = {
    "ram_mb": 800,
    "sent_mb": (676.8, 126.7, 39.0, 28.4, 24.2, 16.7, 14.2, 15.3, 18.2),
    "total_s": 71,
    "downtime_ms": 210,
}
CLARK05_QUAKE = {
    "ram_mb": 64,
    "sent_mb": (56.3, 20.4, 4.6, 1.6, 1.2, 0.9, 1.2, 1.1, 0.8, 0.2, 0.1),
    "downtime_ms": 60,
}
# Stop-and-copy of 512 MB: seconds of downtime for each bandwidth in Mbit/s [Clark05, Section 4.2].
CLARK05_STOP_AND_COPY_S = {128: 32, 256: 16, 512: 8}
# Post-copy of a 2 GB guest, with prepaging and with pushing only: network faults in % for each working set in MB [Hines09].
HINES09_FAULTS_PCT = {
    "working_set_mb": (8, 16, 32, 64, 128, 256),
    "prepaging": (2, 4, 4, 3, 3, 3),
    "push": (15, 13, 13, 10, 9, 10),
}

# Cycles of what VT-x does, by generation of the processor; None: that one has no nested paging [BNT17, Table 4.3].
# `resume` is VMRESUME, the others are exits by their cause; Prescott is the processor of AA06.
VTX_GENERATIONS = ("Prescott", "Merom", "Penryn", "Westmere", "SandyBridge", "IvyBridge", "Haswell", "Broadwell")
VTX_CYCLES = {
    "resume": (2333, 944, 643, 402, 460, 452, 318, 348),
    "vmcall": (1630, 727, 638, 344, 365, 334, 253, 265),
    "cpuid": (1599, 764, 611, 389, 434, 398, 327, 332),
    "page fault": (1926, 1156, 858, 569, 507, 466, 512, 531),
    "port": (1942, 858, 708, 427, 472, 436, 383, 397),
    "nested": (None, None, None, 546, 588, None, 604, 656),
}
# Cycles there and back as measured another way: a check of the table above [BNT17, Table 4.2].
VTX_ROUND_TRIP = {
    "Prescott": 3963, "Merom": 1579, "Penryn": 1266, "Nehalem": 1009, "Westmere": 761, "SandyBridge": 784,
}  # fmt: skip
# Cycles for one RDTSC of a guest kernel on a Pentium 4, by the way it is virtualized, and cycles to translate one
# instruction [AA06, Section 3].
AA06_TRAP, AA06_CALL_OUT, AA06_IN_CACHE = 2030, 1254, 216
AA06_TRANSLATE = 2300
# Cycles of AA06's nano-benchmarks on a Pentium 4: native, binary translation, VT-x. No model takes them in: they are
# what predictions are held against. Of the system call the paper says in words: about 2000 more, and as native.
AA06_NANO = {
    "in": (3209, 214, 15826),
    "callret": (11, 51, 11),
    "pgfault": (1093, 3927, 11242),
    "divzero": (889, 3223, 1014),
    "ptemod": (1, 391, 12733),
}
AA06_SYSCALL_EXTRA = {"bt": 2000, "vt": 0}

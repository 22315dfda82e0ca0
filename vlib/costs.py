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

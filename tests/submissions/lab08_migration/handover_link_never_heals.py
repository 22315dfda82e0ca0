"""Cuts the link for ever: then the right protocol is in doubt too, or the data is not in range."""
# expect: handover=0/7

from vlib.handover import MUTANTS

schedules = {name: [[18_000, None]] for name in MUTANTS}

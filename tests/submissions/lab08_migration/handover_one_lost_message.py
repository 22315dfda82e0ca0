"""Loses one message each: every rule here survives that, since messages are repeated."""
# expect: handover=0/7

from vlib.handover import MUTANTS

schedules = {name: [7 + number] for number, name in enumerate(MUTANTS)}

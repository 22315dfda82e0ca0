"""Uses one outage after commitment for all: it reaches only the mutants of A that act there."""
# expect: handover=2/7

from vlib.handover import MUTANTS

schedules = {name: [[18_500, 90_000]] for name in MUTANTS}

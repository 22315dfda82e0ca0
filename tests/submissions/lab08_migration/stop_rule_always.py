"""Stops at once: no round but the first."""
# expect: stop_rule=0/6


def stop_now(history, memory, budget):
    return True

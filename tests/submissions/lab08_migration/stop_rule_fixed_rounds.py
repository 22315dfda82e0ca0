"""Stops after a fixed number of rounds, whatever the guest does."""
# expect: stop_rule=0/6


def stop_now(history, memory, budget):
    return len(history) >= 5

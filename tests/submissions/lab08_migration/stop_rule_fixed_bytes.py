"""Stops when little is left or when twice the memory has been sent, whatever the budget is and the guest does."""
# expect: stop_rule=0/6


def stop_now(history, memory, budget):
    return history[-1][1] <= 64 or sum(sent for sent, _ in history) > 2 * memory

"""Spends the whole budget in the belief that a later stop is never a longer one."""
# expect: stop_rule=4/6


def stop_now(history, memory, budget):
    left = history[-1][1]
    return left <= 64 or sum(sent for sent, _ in history) + 2 * left > budget

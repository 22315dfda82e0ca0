"""Goes on while another round fits into the budget, and forgets that the stop after it sends pages too."""
# expect: stop_rule=0/6


def stop_now(history, memory, budget):
    return history[-1][1] <= 64 or sum(sent for sent, _ in history) + history[-1][1] > budget

"""Takes the last copy alone for the downtime, and forgets that B must start the guest."""
# expect: rounds=2/3

downtime_us = 500
total_us = 10_500

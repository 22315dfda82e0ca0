"""Predicts with rate × time: six writes are taken for six pages."""
# expect: rounds=0/3

pages_sent = [12, 6, 3, 2]
downtime_us = 2500
total_us = 14_000

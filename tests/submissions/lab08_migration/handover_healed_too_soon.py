"""Heals the link before the mutant that retries has given up a second time."""
# expect: handover=6/7

schedules = {
    "a_resumes_after_commit": [[18_500, 60_000]],
    "a_retries_after_commit": [[18_500, 53_000]],
    "a_commits_without_ready": [[15_000, 60_000]],
    "b_runs_before_commit": [[17_500, 90_000]],
    "b_takes_silence_for_commit": [[17_500, 40_000]],
    "b_takes_silence_for_abort": [[18_000, 60_000]],
    "b_keeps_reservation": [[2_000, 60_000]],
}

"""The rollout judge: promote, hold or roll back, from the raw counters of production, baseline and candidate.

Read decide.py first: it is the rule. witnesses.py and promotion.py hold the statistics, counters.py makes windows of
scrapes, guards.py needs no statistics. All of that is pure. scrape.py, poll.py, saved.py, listen.py
and judge.py touch the world. The sidecar follows a rollout in ../judging.py.
"""

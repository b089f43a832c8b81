"""The rollout judge: promote, hold or roll back, from the raw counters of production, baseline and candidate.

Read decide.py first: it is the rule. e_values.py and promotion.py hold the statistics, counters.py makes windows of
scrapes, guards.py needs no statistics. All of that is pure. fetch.py, lookup.py, sources.py, checkpoint.py,
decision_server.py and judge.py touch the world. The sidecar follows a rollout in ../rollout_service.py.
"""

"""The rule of logs that say `evenkeel rollout log 1`. Frozen: an old log replays to the verdict that it holds, bit by bit.

Nothing here judges a rollout any more; ../decide.py does. What is imported from above (Pair, the factors, the intervals,
the budget's e-value) is arithmetic that both rules share.
"""

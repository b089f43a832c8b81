"""Which rows run together, and when. Pure: no thread, clock, socket, array or framework in here.

`pending` holds what is queued, `cost` has learned how long a batch takes, `policy` decides run or wait, `split`
cuts the batch out of the queue.
"""

"""The time of a call."""

import statistics
import time


def milliseconds(function, repetitions=9):
    """Returns the median time of a call, the first left out."""
    function()
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds)

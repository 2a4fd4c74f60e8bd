"""The load of other processes on this machine; needs psutil."""

import os
import sys
import time

import psutil

BUSY = 0.1  # Of a core, used by other processes: no measurement is fair then.
LOOK = 2.0  # Seconds.


def require(is_forced):
    """Ends the program where other processes take part of a core."""
    processes = list(psutil.process_iter())
    for process in processes:
        _share(process)
    busy = psutil.cpu_percent(interval=LOOK) / 100 * psutil.cpu_count()
    if busy <= BUSY or is_forced:
        return
    name, share = max(
        ((_name(process), _share(process)) for process in processes),
        key=lambda pair: pair[1],
    )
    sys.exit(
        f"Other processes keep {busy:.2f} cores busy (at most {BUSY}), "
        f"{name} {share:.2f} of them: ratios would say nothing. End them, or "
        "use --force."
    )


def _share(process):
    """Returns the part of a core since the last call, of a process."""
    try:
        return process.cpu_percent() / 100
    except psutil.Error:
        return 0.0


def _name(process):
    try:
        return f"{process.name()} ({process.pid})"
    except psutil.Error:
        return str(process.pid)


class Watch:
    """The part of a core that other processes take inside of a `with`.

    Children of this process count as its own. They must have ended.
    """

    def __enter__(self):
        self._seconds, self._start = _seconds_of_others(), time.monotonic()
        return self

    def __exit__(self, *error):
        seconds = _seconds_of_others() - self._seconds
        self.share = seconds / (time.monotonic() - self._start)


def _seconds_of_others():
    """Returns processor time, without this process and ended children."""
    times = psutil.cpu_times()
    busy = sum(times) - times.idle - getattr(times, "iowait", 0.0)
    # A guest's time is part of the user's; stolen time is not spent here.
    for field in ("guest", "guest_nice", "steal"):
        busy -= getattr(times, field, 0.0)
    return busy - sum(os.times()[:4])

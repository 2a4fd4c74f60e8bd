"""`solution_report`: status, evaluations and steps of a solve, as text."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node.diagnostics.table import percent
from keras_node.solvers import Diagnostics, failures

_SHOWN = 5


def solution_report(results):
    """Returns what a solve did as text: status, evaluations and steps.

    With per-sample steps, counts are shown as `min / median / max` over the
    batch. Of the samples that failed, it shows how many, the first few, and
    the times that they reached.

    Args:
        results: `tfp.math.ode.Results` that `odeint` returned, eagerly.

    Returns:
        String of a few lines.

    Raises:
        TypeError: If it is not what `odeint` returned, or is part of a graph.

    Example:
    >>> results = keras_node.odeint(
    ...     lambda t, y: -y, tf.ones([3]), (0.0, 1.0)
    ... )
    >>> print(keras_node.diagnostics.solution_report(results))
    Status    success
    Times     2, from 0 to 1
    NFE       14
    Accepted  2
    Rejected  0 (0 %)
    """
    _check_results(results)
    counts = results.diagnostics
    accepted = np.asarray(counts.num_accepted_steps)
    rejected = np.asarray(counts.num_rejected_steps)
    steps = {"Accepted": "not kept", "Rejected": "not kept"}
    if np.all(accepted >= 0):
        share = rejected.sum() / max(accepted.sum() + rejected.sum(), 1)
        steps = {
            "Accepted": _range(accepted),
            "Rejected": f"{_range(rejected)} ({percent(share)})",
        }
    lines = {
        "Status": _status(counts.status, results.solver_internal_state.t),
        "Times": _times(results.times),
        "NFE": _range(np.asarray(counts.num_ode_fn_evaluations)),
        **steps,
    }
    return "\n".join(f"{name:<10}{text}" for name, text in lines.items())


def _check_results(results):
    is_known = isinstance(results, tfp.math.ode.Results) and isinstance(
        results.diagnostics, Diagnostics
    )
    if not is_known:
        raise TypeError(
            "`results` must be what `keras_node.odeint` returned. "
            f"Received: results={results!r} of type {type(results).__name__}"
        )
    if tf.is_symbolic_tensor(results.diagnostics.status):
        raise TypeError(
            "`results` must hold numbers; a `tf.function` has none before it "
            "runs: return the results from it. Received: results with "
            f"status={results.diagnostics.status}"
        )


def _status(status, time):
    status, time = np.asarray(status), np.asarray(time)
    if status.ndim == 0:
        if status == failures.SUCCESS:
            return "success"
        return f"failed at time {time:g}: {failures.MESSAGES[int(status)].name}"
    num_failed = np.count_nonzero(status)
    if num_failed == 0:
        return f"success of all {status.size} samples"
    parts = [f"{num_failed} of {status.size} samples failed"]
    parts += [
        f"{np.sum(status == code)} {failure.name}: "
        f"{_samples(status == code, time)}"
        for code, failure in failures.MESSAGES.items()
        if np.any(status == code)
    ]
    return f"\n{'':<10}".join(parts)


def _samples(is_meant, time):
    indices = np.flatnonzero(is_meant)
    shown = [f"sample {i} at time {time[i]:g}" for i in indices[:_SHOWN]]
    return ", ".join(shown + ["..."] if indices.size > _SHOWN else shown)


def _times(times):
    times = np.asarray(times)
    first, last = times[0], times[-1]
    if np.ptp(first) or np.ptp(last):
        return f"{len(times)}, of each sample's own"
    return f"{len(times)}, from {first.flat[0]:g} to {last.flat[0]:g}"


def _range(counts):
    if np.ptp(counts) == 0:
        return f"{counts.flat[0]}"
    return f"{counts.min()} / {np.median(counts):g} / {counts.max()}"

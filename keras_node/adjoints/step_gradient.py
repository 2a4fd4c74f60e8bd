"""The gradient of one Runge-Kutta step, from those of its evaluations."""

import typing

import tensorflow as tf

from keras_node.common.inner_products import dot
from keras_node.solvers import clocks, step


class Evaluations(step.Evaluator):
    """Evaluates the dynamics, and keeps what the gradient needs.

    Args:
        gradient: `FieldGradient`.

    Attributes:
        kept: List of tensors for each evaluation, in their order.
        derivatives: List of leaves for each evaluation.
        kept_behind: List of tensors, of the evaluation behind jumps; those of
            another one where there was none.
    """

    def __init__(self, gradient):
        self._gradient = gradient
        self.kept, self.derivatives = [], []
        self.kept_behind = None

    def __call__(self, t, leaves):
        derivative, kept = self._gradient.evaluate(t, leaves)
        self.kept.append(kept)
        self.derivatives.append(derivative)
        return derivative

    def linearize(self, t, leaves):
        """Returns the dynamics linearized; nothing of it is kept."""
        return self._gradient.field.linearize(t, leaves)

    def behind_jumps(self, lands, t, y, f):
        """Returns the derivative; see `Evaluator`."""
        f1, self.kept_behind = tf.cond(
            tf.reduce_any(lands),
            lambda: self._gradient.evaluate(t, y),
            lambda: (f, self.kept[-1]),
        )
        return clocks.select(lands, f1, f)


class StepCotangents(typing.NamedTuple):
    """The cotangents of a step's inputs.

    Attributes:
        y, f: Lists of leaves.
        t, dt: Float64 per clock, or `None`.
        sources: List, those of the sources that are connected.
    """

    y: list
    f: list
    t: typing.Any
    dt: typing.Any
    sources: list


class StepGradient:
    """The reverse of a Runge-Kutta step, for any tableau.

    Stage `i` evaluates `k_i = f(t + c_i dt, Y_i)` at `Y_i = y + sum_j a_ij K_j`
    with the increments `K_j = dt k_j`. Backwards, the last stage first:

        K_j_bar = b_j y1_bar + sum_{i>j} a_ij Y_i_bar
        Y_i_bar = (df/dY)^T dt K_i_bar
        y_bar = y1_bar + sum_i Y_i_bar

    with a bar for the cotangent. In a first-same-as-last method `y1` is the
    last `Y_i`.

    Args:
        tableau: `ButcherTableau`.
        gradient: `FieldGradient`.
        shared: What `gradient.shared` returned.
        needs_time: Whether `t` and `dt` have cotangents.

    Reference:
    - [Hager, 2000](https://doi.org/10.1007/s002110000178)
    """

    def __init__(self, tableau, gradient, shared, needs_time):
        self._tableau = tableau
        self._gradient = gradient
        self._shared = shared
        self._needs_time = needs_time

    def pull_back(self, taken, y1_bar, f1_bar, increment_bars=()):
        """Returns the `StepCotangents`.

        Args:
            taken: `TakenStep` of `adjoints/taken_steps.py`.
            y1_bar, f1_bar: Lists of leaves, the cotangents of the results.
            increment_bars: List of leaves for each stage, those of the
                increments.
        """
        tableau, first = self._tableau, int(self._tableau.fsal)
        kept = [None] * first + taken.evaluations.kept
        f1_bar, passed_on = _by_clocks(taken.dt, f1_bar)
        terms = [[] for _ in kept]
        for stage, bar in zip(terms, increment_bars, strict=False):
            stage.append((1.0, bar))
        if not tableau.fsal:
            _spread(y1_bar, tableau.b, terms)
        y_bars, sums, found = [y1_bar], {}, {}
        for i in reversed(range(len(kept))):
            sums[i] = _sum(terms[i])
            slope_bar = sums[i] and clocks.scale(taken.dt, sums[i])
            is_end = tableau.fsal and i == tableau.num_stages - 1
            if is_end:
                slope_bar = _add(slope_bar, f1_bar)
            if i < first:
                f_bar = clocks.add(slope_bar, passed_on)
            elif slope_bar:
                found[i] = self._gradient.pull_back(
                    kept[i], self._shared, slope_bar
                )
                state_bar = found[i].leaves
                y_bars.append(state_bar)
                if is_end:
                    state_bar = clocks.add(state_bar, y1_bar)
                _spread(state_bar, tableau.a[i], terms)
        t_bar, dt_bar = self._time_bars(taken, sums, found)
        return StepCotangents(
            y=[tf.add_n(bars) for bars in zip(*y_bars, strict=True)],
            f=f_bar if first else [],
            t=t_bar,
            dt=dt_bar,
            sources=[
                tf.add_n(bars)
                for bars in zip(
                    *[x.sources for x in found.values()], strict=True
                )
            ],
        )

    def _time_bars(self, taken, sums, found):
        """Returns the cotangents of the start and of the size of the step."""
        if not self._needs_time:
            return None, None
        t_bar = dt_bar = tf.zeros_like(taken.dt)
        for i, cotangents in found.items():
            if cotangents.t is not None:
                bar = tf.cast(cotangents.t, tf.float64)
                t_bar += bar
                dt_bar += self._tableau.c[i] * bar
        slopes = taken.evaluations.derivatives
        if self._tableau.fsal:
            slopes = [taken.f, *slopes]
        for i, bar in sums.items():
            if bar:
                dt_bar += dot(bar, slopes[i], taken.dt.shape.rank)
        return t_bar, dt_bar


def _by_clocks(dt, f1_bar):
    """Divides the cotangent of `f1` between the last stage and the start.

    A clock that did not advance has kept its derivative.
    """
    if not dt.shape.rank or not f1_bar:
        return f1_bar, [0.0] * len(f1_bar)
    advances = tf.not_equal(dt, 0.0)
    return (
        clocks.zero_unless(advances, f1_bar),
        clocks.zero_unless(~advances, f1_bar),
    )


def _spread(state_bar, weights, terms):
    """Adds the cotangent of a state to those of the increments in it."""
    for weight, stage in zip(weights, terms, strict=False):
        if weight != 0:
            stage.append((weight, state_bar))


def _sum(terms):
    """Returns the sum of weighted leaves, `None` if there are none."""
    if not terms:
        return None
    weights, leaves = zip(*terms, strict=True)
    return step.weighted_sum(None, leaves, weights)


def _add(x, y):
    return clocks.add(x, y) if x else y

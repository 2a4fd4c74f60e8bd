"""Butcher tableaus: an explicit Runge-Kutta method as checked data."""

import dataclasses
import math

# For sums of a few coefficients of size up to 1e3 (DOP853), in float64.
_TOLERANCE = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class ButcherTableau:
    """Coefficients of an explicit Runge-Kutta method, checked when created.

    One step of size `dt` from `(t0, y0)` computes the stages

        k_i = f(t0 + c_i * dt, y0 + dt * sum_{j < i} a_ij k_j)

    and from them, the sums being over all `j`,

        y1 = y0 + dt * sum b_j k_j                       (the solution)
        y1 - y1_hat = dt * sum b_error_j k_j             (its error estimate)
        y(t0 + theta * dt) = y0 + dt * sum b_j(theta) k_j      (dense output)
        b_j(theta) = sum_p b_dense_jp theta**(p + 1)

    The stages in `b` are the main ones. A method with an error estimate has
    `f(t1, y1)` as its last main stage, so that a step can hand it to the next
    one (first same as last). Stages after the main ones serve dense output
    only.

    Args:
        order: Integer, order of the solution `y1`.
        c: Tuple of floats, nodes of all stages.
        a: Tuple of tuples of floats, strictly lower triangular: row `i` has
            `i` entries.
        b: Tuple of floats, weights of the main stages.
        b_error: Tuple of floats, weights of the error estimate, one for each
            main stage; the embedded solution `y1_hat` has weights
            `b - b_error`. `None` (default) without an embedded pair.
        error_order: Integer, order of `y1_hat`.
        b_error_damping: Tuple of floats, weights of a second, low order error
            estimate that corrects the first one (DOP853's). Default `None`.
        b_dense: Tuple of tuples of floats, polynomial coefficients of dense
            output, one row for every stage. Default `None`.
        dense_order: Integer, order of dense output.

    Raises:
        ValueError: If a shape, a row sum of `a`, the sum of `b` or of an
            error estimate, or dense output at `theta = 1` is wrong.

    Reference:
    - [Hairer, Nørsett & Wanner, 1993, Sec. II.1, II.4 and II.6](https://doi.org/10.1007/978-3-540-78862-1)
    """

    order: int
    c: tuple
    a: tuple
    b: tuple
    b_error: tuple | None = None
    error_order: int | None = None
    b_error_damping: tuple | None = None
    b_dense: tuple | None = None
    dense_order: int | None = None

    def __post_init__(self):
        _check_stages(self)
        _check_error_estimate(self)
        _check_dense_output(self)

    @property
    def control_order(self):
        """The power of the step size in the error estimate."""
        return self.order

    @property
    def num_stages(self):
        """Number of main stages, those that make up a step."""
        return len(self.b)

    @property
    def num_dense_stages(self):
        """Number of extra stages that only dense output needs."""
        return len(self.c) - len(self.b)

    @property
    def fsal(self):
        """Whether the last main stage is `f(t1, y1)`: first same as last."""
        last = len(self.b) - 1
        is_y1 = (*self.a[last], 0) == tuple(self.b)
        return is_y1 and self.c[last] == 1


def _check_stages(tableau):
    a, b, c = tableau.a, tableau.b, tableau.c
    if len(a) != len(c) or any(len(row) != i for i, row in enumerate(a)):
        raise ValueError(
            "`a` must have one row for each node in `c`, row `i` having `i` "
            f"entries. Received: a={a}, c={c}"
        )
    if not 1 <= len(b) <= len(c):
        raise ValueError(
            "`b` must have one weight for each main stage, at least 1 and at "
            f"most `len(c)`. Received: b={b}, c={c}"
        )
    for i, row in enumerate(a):
        if not _is_close(math.fsum(row), c[i]):
            raise ValueError(
                "Each row of `a` must sum to its node in `c`. Received: "
                f"a[{i}]={row} with sum {math.fsum(row)}, c[{i}]={c[i]}"
            )
    _check_sum("b", b, 1)


def _check_error_estimate(tableau):
    if (tableau.b_error is None) != (tableau.error_order is None):
        raise ValueError(
            "`b_error` and `error_order` must be given together. Received: "
            f"b_error={tableau.b_error}, error_order={tableau.error_order}"
        )
    if tableau.b_error is None and tableau.b_error_damping is not None:
        raise ValueError(
            "`b_error_damping` corrects `b_error` and must come with it. "
            f"Received: b_error=None, b_error_damping={tableau.b_error_damping}"
        )
    if tableau.b_error is not None and not tableau.fsal:
        raise ValueError(
            "The last main stage of a method with `b_error` must be the "
            "derivative at the end of the step: a row of `a` equal to `b`, "
            "with node 1 and weight 0. Received: "
            f"a={tableau.a}, b={tableau.b}, c={tableau.c}"
        )
    for name in ("b_error", "b_error_damping"):
        weights = getattr(tableau, name)
        if weights is None:
            continue
        if len(weights) != len(tableau.b):
            raise ValueError(
                f"`{name}` must have one weight for each weight in `b`. "
                f"Received: {name}={weights}, b={tableau.b}"
            )
        _check_sum(name, weights, 0)


def _check_dense_output(tableau):
    b_dense = tableau.b_dense
    if (b_dense is None) != (tableau.dense_order is None):
        raise ValueError(
            "`b_dense` and `dense_order` must be given together. Received: "
            f"b_dense={b_dense}, dense_order={tableau.dense_order}"
        )
    if b_dense is None:
        if tableau.num_dense_stages:
            raise ValueError(
                "Stages beyond those in `b` serve dense output and need "
                f"`b_dense`. Received: b={tableau.b}, c={tableau.c}, "
                "b_dense=None"
            )
        return
    if len(b_dense) != len(tableau.c) or len(set(map(len, b_dense))) != 1:
        raise ValueError(
            "`b_dense` must have one row for each node in `c`, all of the same "
            f"length. Received: b_dense={b_dense}, c={tableau.c}"
        )
    padded_b = (*tableau.b, *(0,) * tableau.num_dense_stages)
    for j, (row, weight) in enumerate(zip(b_dense, padded_b, strict=True)):
        if not _is_close(math.fsum(row), weight):
            raise ValueError(
                "Dense output at `theta = 1` must be the solution: each row "
                "of `b_dense` must sum to its weight in `b`, 0 for the extra "
                f"stages. Received: b_dense[{j}]={row} with sum "
                f"{math.fsum(row)}, weight {weight}"
            )


def _check_sum(name, weights, expected):
    if not _is_close(math.fsum(weights), expected):
        raise ValueError(
            f"The weights `{name}` must sum to {expected}. "
            f"Received: {name}={weights} with sum {math.fsum(weights)}"
        )


def _is_close(value, expected):
    # Written so that a NaN is not close to anything.
    return abs(value - expected) <= _TOLERANCE

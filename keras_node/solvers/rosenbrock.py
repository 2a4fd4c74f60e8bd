"""Rosenbrock methods: for stiff dynamics, one linear system a step."""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_node.common import tf_internals
from keras_node.dynamics.jacobian import Vectors
from keras_node.solvers import solution, step
from keras_node.solvers.one_step import OneStepSolver


@dataclasses.dataclass(frozen=True, eq=False)
class RosenbrockTableau:
    """Coefficients of a Rosenbrock method, in the form that saves products.

    With the Jacobian `J = df/dy` at `(t0, y0)` a step of size `h` solves

        (I - h gamma J) u_i = gamma (h f(t0 + c_i h, y0 + sum_j a_ij u_j)
            + sum_j C_ij u_j + h**2 d_i df/dt),    j < i

    for its increments `u_i`, and from them, the sums being over all `j`,

        y1 = y0 + sum b_j u_j                            (the solution)
        y1 - y1_hat = sum b_error_j u_j                  (its error estimate)
        y(t0 + theta h) = y0 + sum b_j(theta) u_j        (dense output)
        b_j(theta) = sum_p b_dense_jp theta**(p + 1)

    Args:
        order: Integer, order of the solution `y1`.
        gamma: Float, the diagonal.
        c, d: Tuples of floats, of each stage.
        a, C: Tuples of tuples of floats, strictly lower triangular.
        b, b_error: Tuples of floats.
        b_dense: Tuple of tuples of floats, a row for each stage.
        control_order: Integer, the power of `h` of the error estimate.
        dense_order: Integer, order of dense output.

    Raises:
        ValueError: If dense output at `theta = 1` is not the solution, or `c`
            and `d` do not follow from the others.

    Reference:
    - [Hairer & Wanner, 1996, Sec. IV.7](https://doi.org/10.1007/978-3-642-05221-7)
    """

    order: int
    gamma: float
    c: tuple
    d: tuple
    a: tuple
    C: tuple
    b: tuple
    b_error: tuple
    b_dense: tuple
    control_order: int
    dense_order: int
    b_error_damping = None
    num_dense_stages = 0

    def __post_init__(self):
        alpha, gamma, _ = self.standard_form()
        for name, found, expected in (
            ("b_dense", np.sum(self.b_dense, axis=1), self.b),
            ("c", alpha.sum(axis=1), self.c),
            ("d", gamma.sum(axis=1), self.d),
        ):
            if not np.allclose(found, expected, rtol=1e-11, atol=1e-11):
                raise ValueError(
                    f"`{name}` must follow from the other coefficients: "
                    f"{found}. Received: {expected}"
                )

    @classmethod
    def from_standard(cls, alpha, gamma, b, b_error, b_dense, **orders):
        """Returns the tableau of a method in the standard form.

            k_i = h f(.., y0 + sum alpha_ij k_j) + h J sum gamma_ij k_j + ...

        Args:
            alpha, gamma: Square arrays, of the stages and of the Jacobian.
            b, b_error, b_dense: Weights of the `k_i`, as in the class.
            **orders: The orders.
        """
        alpha, gamma = np.asarray(alpha, float), np.asarray(gamma, float)
        inverse = np.linalg.inv(gamma)
        diagonal = np.diag(1.0 / np.diag(gamma))
        return cls(
            gamma=float(gamma[0, 0]),
            c=tuple(alpha.sum(axis=1)),
            d=tuple(gamma.sum(axis=1)),
            a=_rows(alpha @ inverse),
            C=_rows(diagonal - inverse),
            b=tuple(np.asarray(b) @ inverse),
            b_error=tuple(np.asarray(b_error) @ inverse),
            b_dense=tuple(map(tuple, inverse.T @ np.asarray(b_dense))),
            **orders,
        )

    def standard_form(self):
        """Returns `(alpha, gamma, b)`, square arrays and weights."""
        size = len(self.b)
        lower = _square(self.C, size)
        gamma = np.linalg.inv(np.eye(size) / self.gamma - lower)
        return _square(self.a, size) @ gamma, gamma, np.array(self.b) @ gamma

    @property
    def num_stages(self):
        """Number of stages."""
        return len(self.b)

    @property
    def fsal(self):
        """Whether the last stage evaluates `f(t1, y1)`."""
        is_y1 = np.allclose((*self.a[-1], 0.0), self.b, rtol=1e-12, atol=1e-12)
        return bool(is_y1 and abs(self.c[-1] - 1.0) < 1e-12)


def _rows(matrix):
    """Returns the strict lower triangle, row by row."""
    return tuple(tuple(row[:i]) for i, row in enumerate(matrix.tolist()))


def _square(rows, size):
    return np.array([[*row, *[0.0] * (size - len(row))] for row in rows])


class StiffDiagnostics(solution.Diagnostics):
    """Diagnostics of a method with one Jacobian and one matrix a step."""

    __slots__ = ()

    @property
    def num_jacobian_evaluations(self):
        """One for each step, accepted or rejected."""
        return self.num_accepted_steps + self.num_rejected_steps

    @property
    def num_matrix_factorizations(self):
        """One for each step, accepted or rejected."""
        return self.num_jacobian_evaluations


class Rosenbrock(OneStepSolver):
    """Base class of the Rosenbrock methods, for stiff dynamics.

    A method is its `RosenbrockTableau`: a subclass sets `tableau`. A step takes
    the Jacobian of the dynamics, by reverse mode, inverts one matrix, and
    solves with it for all stages: no iteration, and so none that diverges. A
    matrix that cannot be inverted rejects the step.

    Samples must not interact. The state is a batch of systems if a part of it
    has a batch axis and others, or if each sample has its own clock; a state
    of shape `(3,)` with one clock is one system of three. The matrix of a
    sample has as many rows as its state has numbers: for small states. Use
    float64: in float32 the systems of stiff dynamics lose their digits.

    The gradient of `CheckpointAdjoint` and `DirectAdjoint` is that of the
    discrete steps, and goes through the Jacobian; steps are taken again from
    stored states. `BacksolveAdjoint` needs a `solver` of its own.

    Args:
        **kwargs: The arguments of `OneStepSolver`.
    """

    diagnostics = StiffDiagnostics
    is_stiff = True
    needs_jacobian = True

    def step(self, ode_fn, interval, t, dt, y, f):
        """Takes one step; see `OneStepSolver.step`."""
        tableau, vectors = self.tableau, Vectors(t, y)
        times = step.stage_times(tableau.c, t, dt, interval, y[0].dtype)
        linear = ode_fn.linearize(times[0], y)
        h = _of_vectors(dt, vectors)
        solve, is_regular = _solver_of(
            tableau.gamma * h[..., None] * linear.jacobian
        )
        slope = vectors.pack(f) if f else linear.slope
        start, increments = vectors.pack(y), []
        for i in range(tableau.num_stages):
            if i:
                state = _sum(start, increments, tableau.a[i])
                f1 = ode_fn(times[i], vectors.unpack(state))
                slope = vectors.pack(f1)
            right = h * slope + h**2 * tableau.d[i] * linear.by_time
            right = _sum(right, increments, tableau.C[i])
            increments.append(solve(tableau.gamma * right))
        y1 = _sum(start, increments, tableau.b)
        # What cannot be solved is rejected.
        y1 = tf.where(is_regular, y1, np.nan)
        increments = [tf.where(is_regular, u, np.nan) for u in increments]
        return (
            vectors.unpack(y1),
            f1 if tableau.fsal else [],
            [vectors.unpack(u) for u in increments],
        )

    def evaluations_per_step(self):
        """Returns how often a step evaluates the dynamics."""
        return self.tableau.num_stages - int(self.tableau.fsal)


def _of_vectors(values, vectors):
    """Returns values per clock, shaped to multiply vectors."""
    values = tf.cast(values, vectors.dtype)
    if not vectors.is_batched:
        return values[None]
    return tf.reshape(values, [-1, 1])


def _sum(start, increments, weights):
    terms = [
        u * weight
        for u, weight in zip(increments, weights, strict=False)
        if weight != 0.0
    ]
    return tf.add_n([start, *terms])


def _solver_of(scaled):
    """Returns a function that solves with `I - scaled`, and whether it can.

    One inverse and products with it: in batches of small systems faster than
    a factorization, which TensorFlow cannot differentiate.
    """
    size = scaled.shape[-1]
    eye = tf.eye(size, dtype=scaled.dtype)
    matrix = eye - scaled
    is_regular = _is_regular(matrix)
    # The kernel raises for a matrix without an inverse.
    matrix = tf.where(is_regular[..., None, None], matrix, eye)
    inverse = tf.linalg.inv(matrix)

    def solve(right):
        x = tf.linalg.matvec(inverse, right)
        # Once more for the rounding of the inverse.
        return x + tf.linalg.matvec(
            inverse, right - tf.linalg.matvec(matrix, x)
        )

    return solve, is_regular[..., None]


def _is_regular(matrix):
    """Returns whether each matrix can be inverted.

    XLA, which has no such function, gives an inverse that is not finite.
    """
    matrix = tf.stop_gradient(matrix)
    if tf_internals.in_xla():
        return tf.reduce_all(tf.math.is_finite(matrix), axis=[-2, -1])
    sign, log_det = tf.linalg.slogdet(matrix)
    return tf.math.is_finite(log_det) & tf.not_equal(sign, 0.0)

"""One attempted step of an adaptive solve."""

import typing

import tensorflow as tf

from keras_node.solvers import step_size_control
from keras_node.solvers.pieces import Piece, Pieces


class Trial(typing.NamedTuple):
    """One attempted step; per clock.

    Attributes:
        pieces, piece: `Pieces` of the solve, and that in which it lies.
        active: Whether the clock takes a step at all.
        accepted: Whether the error allows it, and no event lies within.
        lands: Whether it ends where the piece does.
        t1, dt: Float64, its end and its signed size.
        y1, f1: Lists of leaves, state and derivative at its end.
        increments: List of leaves for each stage.
        ratio: Float64, the error over that allowed.
        evaluated: `step.Evaluator`, with what it has recorded.
        is_cut: Whether an event lies within; `None` where none is sought.
    """

    pieces: Pieces
    piece: Piece
    active: tf.Tensor
    accepted: tf.Tensor
    lands: tf.Tensor
    t1: tf.Tensor
    dt: tf.Tensor
    y1: list
    f1: list
    increments: list
    ratio: tf.Tensor
    evaluated: typing.Callable
    is_cut: tf.Tensor | None = None


def try_step(solver, ode_fn, pieces, direction, norm, carry, active):
    """Takes a step in every active clock; returns a `Trial`.

    Args:
        solver: `OneStepSolver`.
        ode_fn: `step.Evaluator`.
        pieces: `Pieces`.
        direction: Sign per clock.
        norm: Callable from leaves to float64 per clock.
        carry: The state `t, y, f`, and the size `h` to try.
        active: Boolean per clock.
    """
    piece = pieces.at(carry.t)
    remaining = piece.end - carry.t
    lands = pieces.reaches_end(carry.h, carry.t, piece)
    dt = tf.where(lands, remaining, direction * carry.h)
    dt = tf.where(active, dt, 0.0)
    y1, f1, increments = solver.step(
        ode_fn, piece.interval, carry.t, dt, carry.y, carry.f
    )
    scale = step_size_control.error_scale(solver.rtol, solver.atol, carry.y, y1)
    ratio = step_size_control.error_ratio(
        solver.tableau, increments, scale, norm
    )
    return Trial(
        pieces=pieces,
        piece=piece,
        active=active,
        accepted=active & (ratio <= 1.0),
        lands=lands,
        t1=tf.where(lands, piece.end, carry.t + dt),
        dt=dt,
        y1=y1,
        f1=f1,
        increments=increments,
        ratio=ratio,
        evaluated=ode_fn,
    )

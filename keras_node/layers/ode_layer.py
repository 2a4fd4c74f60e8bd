"""`ODELayer`: a Keras layer that solves an ODE."""

import functools

import keras
import numpy as np
import tensorflow as tf

from keras_node import adjoints, solvers
from keras_node import regularizers as regularization
from keras_node.common import nfe_metrics
from keras_node.common.arguments import as_boolean
from keras_node.common.conversion import as_floats
from keras_node.common.keras_internals import set_mask
from keras_node.common.random_numbers import Seeds
from keras_node.dynamics import probe_noise
from keras_node.dynamics.vector_field import VectorField
from keras_node.integration import jump_clock
from keras_node.integration.options import Solving
from keras_node.integration.solve import solve
from keras_node.layers.event_functions import EventFunctions
from keras_node.layers.integrated_penalties import Penalties
from keras_node.saving import configs
from keras_node.solvers import requested_times


@keras.saving.register_keras_serializable(package="keras_node")
class ODELayer(Solving, keras.layers.Layer):
    """A residual network with infinitely many layers: an ODE.

    The input is the state `y(t0)`, the output `y(t1)`, with

        dy/dt = f(t, y)

    where the dynamics `f` are a layer or model that you supply. Gradients
    flow to the input, the weights of `f`, tensors that `f` closes over, and
    `times` passed in the call.

    The numbers of function evaluations (NFE) of the forward and the backward
    pass are the metrics `<layer name>_nfe` and `<layer name>_nfe_backward`:
    `fit` shows them and `history` keeps them. The backward NFE is 0 where the
    forward pass has kept all activations (see `CheckpointAdjoint`), and where
    the gradient of a `tf.function` is taken outside of it. With a clock for
    each sample, the forward NFE is a mean over the batch; the backward pass
    goes through the steps of all samples together, as many as the slowest
    needs. With `adjoint="backsolve"`, the metric `<layer name>_drift` is the
    largest drift.

    Args:
        dynamics: The vector field `f`: a Keras layer or model of `y`; one of
            `(t, y)`, such as a Functional model with inputs `[t, y]`; or any
            callable `f(t, y)`, which must be registered to be saved. It
            returns a tensor (or structure) like `y`. See also `ConcatTime`.
        times: Tuple of at least two floats, in any unit, strictly increasing
            or decreasing. The input is the state at the first time. Default
            `(0.0, 1.0)`.
        solver: Solver identifier, see `keras_node.solvers.get`. Default
            `"tsit5"`; tolerances are arguments of the solver, such as
            `Tsit5(rtol=1e-5)`.
        adjoint: Adjoint identifier, see `keras_node.adjoints.get`. Default
            `"auto"`: exact gradients where the solver allows it.
        return_sequences: Boolean, whether to return the state at every time
            rather than only at the last. Default `False`.
        regularizers: List of regularizers of the dynamics, see
            `keras_node.regularizers.get`. Each adds a loss and a metric, such
            as `<layer name>_kinetic_energy`. Default `None`.
        jump_times: Tuple of floats, times at which the dynamics jump, see
            `odeint`. Default `None`.
        events: `keras_node.Event` or a list of them, see `odeint`. Their
            functions get and return a state as the input. Default `None`.
        return_event_times: Boolean, whether to return the times of the events
            as a second output. Default `False`.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Float tensor of shape `(batch, ...)`, or a nested structure.
        times: Floats that override the constructor's `times`: of shape `(T,)`,
            or `(batch, T)` to give each sample its own clock. Each sample then
            has its own steps, whose number does not grow with the number of
            different times in the batch.
        jump_times: Floats that override the constructor's `jump_times`: of
            shape `(J,)`, or `(batch, J)`, padded with NaN, which gives each
            sample its own clock.
        training: Boolean, passed to dynamics that take it.

    Output shape:
        That of the input; with `return_sequences=True`,
        `(batch, len(times), ...)`. With `return_event_times=True` a tuple of
        this and the times of the events in the layer's dtype, `(batch,)`; or
        `(batch, rows)` with any event that has `max_events`; NaN for none.

    Raises:
        ValueError: If an argument is out of its range; when the layer is
            built, if the derivative does not match the state, or if the
            dynamics hold BatchNormalization, Dropout or the like.
        TypeError: If `dynamics` is not callable, or the input holds anything
            but numbers.
        tf.errors.InvalidArgumentError: If a solve fails and the solver has
            `on_failure="raise"`.

    Example:
    >>> field = keras.Sequential(
    ...     [keras.layers.Dense(16, "tanh"), keras.layers.Dense(4)]
    ... )
    >>> model = keras.Sequential(
    ...     [keras_node.ODELayer(field), keras.layers.Dense(1)]
    ... )
    >>> model(tf.zeros((8, 4))).shape
    TensorShape([8, 1])

    Reference:
    - [Chen et al., 2018](https://arxiv.org/abs/1806.07366)
    """

    citations = ("chen2018",)

    def __init__(
        self,
        dynamics,
        times=(0.0, 1.0),
        solver="tsit5",
        adjoint="auto",
        return_sequences=False,
        regularizers=None,
        jump_times=None,
        events=None,
        return_event_times=False,
        **kwargs,
    ):
        # Half precision could merge neighbouring `times` of a call, so `call`
        # casts only the state.
        super().__init__(autocast=False, **kwargs)
        self._field = VectorField(dynamics, self)
        self.dynamics = dynamics
        self.times = requested_times.as_static_times(times)
        self._set_options(solver, adjoint, f"{self.name}_drift")
        self.return_sequences = as_boolean(return_sequences, "return_sequences")
        self.jump_times = jump_clock.as_static_jumps(jump_times)
        self._events = EventFunctions(events, self)
        # The weights of functions that are layers are weights of this one.
        self._event_layers = self._events.layers
        self.return_event_times = as_boolean(
            return_event_times, "return_event_times"
        )
        if self.return_event_times and not self.events:
            raise ValueError(
                "`return_event_times=True` needs `events`. Received: "
                f"events={events!r}"
            )
        self.supports_masking = True
        self._nfe = nfe_metrics.NFE(f"{self.name}_nfe")
        self._nfe_backward = nfe_metrics.NFE(f"{self.name}_nfe_backward")
        self._penalties = Penalties(regularizers, self.name)
        self._penalty_metrics = self._penalties.metrics
        self._seeds = None
        if self._penalties.needs_probes:
            self._seeds = Seeds(self._penalties.seed)

    @property
    def regularizers(self):
        """The list of regularizers of the dynamics."""
        return self._penalties.regularizers

    @property
    def events(self):
        """The list of events."""
        return self._events.events

    def build(self, inputs_shape=None, times_shape=None, jump_times_shape=None):
        t_shape = requested_times.t_shape(
            self.solver, times_shape, jump_times_shape, events=self.events
        )
        state = keras.tree.map_shape_structure(
            functools.partial(_symbolic, dtype=self.compute_dtype),
            inputs_shape,
        )
        _check_leaves(state)
        self._field.build(t_shape, state)
        # The weights of networks in a callable are weights of this layer.
        self._events.build(state)
        self._field_layers = [
            *self._field.held_layers(),
            *self._events.held_layers(),
        ]
        self._field.warn_of_untracked()

    def call(
        self, inputs, times=None, jump_times=None, training=None, mask=None
    ):
        _check_leaves(inputs)
        state = tf.nest.map_structure(
            lambda leaf: as_floats(leaf, "inputs", self.compute_dtype), inputs
        )
        key = probe_noise.key_of(
            self._seeds, training, self.trainable_variables
        )
        results = solve(
            self._penalties.extend(self._field.bind(training), state, key),
            (state, self._penalties.zeros(state)),
            self.times if times is None else times,
            self.solver,
            self.adjoint,
            on_backward=self._nfe_backward.update_state,
            on_drift=self._report_drift(),
            num_controlled=len(tf.nest.flatten(state)),
            jump_times=self.jump_times if jump_times is None else jump_times,
            events=self._events.extended(training),
        )
        states, integrals = results.states
        self._penalties.report(self, [leaf[-1] for leaf in integrals])
        self._nfe.update_state(results.diagnostics.num_ode_fn_evaluations)
        if self.return_sequences:
            outputs = tf.nest.map_structure(_batch_major, states)
            if mask is not None and times is not None:
                _set_mask(outputs, mask, results.times.shape[0])
        else:
            outputs = tf.nest.map_structure(lambda leaf: leaf[-1], states)
        if not self.return_event_times:
            return outputs
        event_times = tf.transpose(results.event_times)
        return outputs, tf.cast(event_times, self.compute_dtype)

    def compute_output_shape(
        self, inputs_shape, times_shape=None, jump_times_shape=None
    ):
        shapes, batches = inputs_shape, []
        if self.return_sequences:
            num_times = (times_shape or [len(self.times)])[-1]
            shapes = keras.tree.map_shape_structure(
                lambda shape: (shape[0], num_times, *shape[1:]), inputs_shape
            )
        if not self.return_event_times:
            return shapes
        keras.tree.map_shape_structure(
            lambda shape: batches.append(shape[0]), inputs_shape
        )
        return shapes, (batches[0], *self._events.rows)

    def compute_output_spec(
        self, inputs, times=None, jump_times=None, training=None, mask=None
    ):
        shapes = keras.tree.map_structure(lambda leaf: leaf.shape, inputs)
        times_shape = None
        if times is not None:
            times_shape = getattr(times, "shape", None) or np.shape(times)
        return keras.tree.map_shape_structure(
            lambda shape: keras.KerasTensor(shape, self.compute_dtype),
            self.compute_output_shape(shapes, times_shape),
        )

    def compute_mask(self, inputs, previous_mask):
        if previous_mask is None or not self.return_sequences:
            return previous_mask
        return _repeat(previous_mask, len(self.times))

    def get_config(self):
        config = super().get_config()
        # Not an argument of this layer.
        config.pop("autocast", None)
        config.update(
            {
                "dynamics": configs.serialize_dynamics(self.dynamics),
                "times": self.times,
                "solver": solvers.serialize(self.solver),
                "adjoint": adjoints.serialize(self.adjoint),
                "return_sequences": self.return_sequences,
                "regularizers": regularization.serialize(self.regularizers),
                "jump_times": self.jump_times,
                "events": self.events
                and keras.saving.serialize_keras_object(self.events),
                "return_event_times": self.return_event_times,
            }
        )
        return configs.stamp(config)

    @classmethod
    def from_config(cls, config):
        return configs.from_config(
            cls,
            config,
            dynamics=configs.deserialize,
            events=configs.deserialize,
        )


def _symbolic(shape, dtype):
    # Keras has no shape for what is not a tensor.
    return None if shape is None else keras.KerasTensor(shape, dtype)


def _check_leaves(inputs):
    leaves = tf.nest.flatten(inputs)
    if not leaves or any(leaf is None for leaf in leaves):
        raise ValueError(
            "`inputs` must be a float tensor with a batch axis, or a nested "
            f"structure of them. Received: inputs={inputs!r}"
        )


def _repeat(mask, num_times):
    return keras.tree.map_structure(
        lambda leaf: (
            leaf
            if leaf is None
            else keras.ops.repeat(leaf[:, None], num_times, axis=1)
        ),
        mask,
    )


def _set_mask(outputs, mask, num_times):
    """Sets the mask of outputs at the call's times.

    `compute_mask` does not see these times; Keras keeps a mask that is set.
    """
    masks = tf.nest.flatten(_repeat(mask, num_times))
    for leaf, leaf_mask in zip(tf.nest.flatten(outputs), masks, strict=True):
        set_mask(leaf, leaf_mask)


def _batch_major(leaf):
    axes = [1, 0, *range(2, leaf.shape.rank)]
    return tf.transpose(leaf, axes)

"""`NeuralCDE`: a Keras layer for irregular time series."""

import keras
import tensorflow as tf

from keras_node import adjoints, solvers
from keras_node.common import nfe_metrics, observations
from keras_node.common.arguments import (
    as_boolean,
    as_positive_integer,
    check_among,
)
from keras_node.common.conversion import as_floats
from keras_node.common.state import solved_dtype
from keras_node.dynamics.vector_field import VectorField
from keras_node.integration.options import Solving
from keras_node.integration.solve import solve
from keras_node.layers import control_paths
from keras_node.saving import configs
from keras_node.saving.quantization import KeepsQuantization
from keras_node.solvers import requested_times

_WIDTH = 128


@keras.saving.register_keras_serializable(package="keras_node")
class NeuralCDE(Solving, KeepsQuantization, keras.layers.Layer):
    """A neural controlled differential equation: a recurrent network in time.

    A path `X` goes through the observations of a time series, and drives a
    hidden state `z`:

        dz = f(z) dX,    z(t_1) = W X(t_1) + b

    `X` has the channels time, features and, on request, how often each feature
    has been observed so far, and its integral over time. The state depends on
    the observations and their times, not on a grid: series may be irregular, of
    any length and with features missing at any time.

        inputs -> NeuralCDE(32) -> Dense(num_classes)

    The result depends on the path alone, not on how fast it is run through:
    each is solved over one unit of time from one row of the data to the next,
    and steps end at the rows. An adaptive solver takes at least one step for
    each, seven evaluations by the default; `solver="midpoint"` takes two.

    The numbers of function evaluations are the metrics `<layer name>_nfe` and
    `<layer name>_nfe_backward`, as those of `ODELayer`.

    Args:
        units: Positive integer, the size of the hidden state.
        field: The vector field `f`: a Keras layer or model of `z`, which
            returns `(batch, units, channels)` or `(batch, units * channels)`.
            Default `None`, a hidden layer of 128 softplus units and an output
            of tanh units.
        interpolation: The path between observations, see
            `keras_node.interpolation`. `"hermite"` (default), smooth, for whole
            series; `"rectilinear"`, for predictions online: time and values
            take turns, and nothing depends on later observations;
            `"linear"`; or `"natural_cubic"`.
        return_sequences: Boolean, whether to return the state at each
            observation rather than at the last. Default `False`.
        solver: Solver identifier, see `keras_node.solvers.get`. Default
            `"tsit5"`.
        adjoint: Adjoint identifier, see `keras_node.adjoints.get`. Default
            `"auto"`.
        count_observations: Boolean, whether the counts of observations are
            channels. Use it where it tells something that a value is missing.
            Default `False`.
        integrate_values: Boolean, whether the integrals of the features over
            time are channels. `dX` tells the field of changes alone; these
            tell it of levels, `X dt`. Default `False`.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Dict, as `LatentODE` takes it: `values`, floats
            `(batch, T, features)`, NaN where missing; `times`, `(T,)` or
            `(batch, T)`, strictly ascending, in any unit: time is a channel,
            so that about 1 is a good size of it; and, optionally, `mask`,
            booleans `(batch, T)` or `(batch, T, features)`, true where
            something was observed. Rows without observations change nothing:
            pad with them.
        training: Boolean, passed to a field that takes it.

    Output shape:
        `(batch, units)`; with `return_sequences=True`, `(batch, T, units)`, at
        rows without observations the state of the row before, and 0 before the
        first.

    Raises:
        ValueError: If an argument is out of its range, the field does not
            return a matrix of units and channels, or the data do not fit.
        TypeError: If the field is not a Keras layer of `z` alone.
        tf.errors.InvalidArgumentError: If a solve fails, or in a graph times
            are not ascending or values not finite.

    Example:
    >>> layer = keras_node.NeuralCDE(8)
    >>> times = np.sort(np.random.default_rng(0).uniform(size=(4, 10)))
    >>> layer({"values": np.ones((4, 10, 3)), "times": times}).shape
    TensorShape([4, 8])

    Reference:
    - [Kidger et al., 2020](https://arxiv.org/abs/2005.08926)
    - [Morrill et al., 2021](https://arxiv.org/abs/2106.11028)
    """

    citations = ("kidger2020", "morrill2021")

    def __init__(
        self,
        units,
        field=None,
        interpolation="hermite",
        return_sequences=False,
        solver="tsit5",
        adjoint="auto",
        count_observations=False,
        integrate_values=False,
        **kwargs,
    ):
        # Half precision could merge neighbouring times.
        super().__init__(autocast=False, **kwargs)
        self.units = as_positive_integer(units, "units")
        check_among(
            interpolation, "interpolation", control_paths.INTERPOLATIONS
        )
        self.interpolation = interpolation
        self.return_sequences = as_boolean(return_sequences, "return_sequences")
        self.count_observations = as_boolean(
            count_observations, "count_observations"
        )
        self.integrate_values = as_boolean(integrate_values, "integrate_values")
        # The default one is made when the number of channels is known.
        self.field = field
        _check_field(field)
        self._field = (
            None if field is None else VectorField(field, self, "field")
        )
        self._set_options(solver, adjoint, f"{self.name}_drift")
        self._nfe = nfe_metrics.NFE(f"{self.name}_nfe")
        self._nfe_backward = nfe_metrics.NFE(f"{self.name}_nfe_backward")
        self._initial = keras.layers.Dense(
            self.units, dtype=self.dtype_policy, name="initial"
        )

    def build(self, inputs_shape):
        observations.check_keys(inputs_shape)
        num_features = inputs_shape.get("values", (None,))[-1]
        if num_features is None:
            raise ValueError(
                "The input must have `values` of shape (batch, T, features), "
                "the number of features being known. "
                f"Received: shapes {inputs_shape}"
            )
        self._num_channels = control_paths.num_channels(
            num_features, self.count_observations, self.integrate_values
        )
        self._initial.build((None, self._num_channels))
        if self._field is None:
            network = _default_field(
                self.units * self._num_channels, self.dtype_policy
            )
            self._network = network
            self._field = VectorField(network, self, "field")
        self._field.refuse_stateful_layers()
        z = keras.KerasTensor((None, self.units), self._state_dtype)
        self._field.make_weights(requested_times.t_shape(self.solver), z)
        self._field.refuse_stateful_layers()
        self._field_layers = self._field.held_layers()

    def _made_layers(self):
        network = [] if self.field is not None else self._network.layers
        return [self._initial, *network]

    @property
    def _state_dtype(self):
        return solved_dtype(tf.as_dtype(self.compute_dtype)).name

    def call(self, inputs, training=None):
        observations.check_keys(inputs)
        values = as_floats(inputs["values"], "values", self._state_dtype)
        observed = observations.observations_of(
            {**inputs, "values": values, "mask": _mask_of(inputs, values)},
            values.shape[-1],
            initial_time=0.0,
            dtype=values.dtype,
        )
        control = control_paths.control_of(
            observed,
            self.interpolation,
            self.count_observations,
            self.integrate_values,
        )
        z0 = tf.cast(self._initial(control.initial), values.dtype)
        results = solve(
            self._ode_fn(control, training),
            z0,
            control.times
            if self.return_sequences
            else tf.stack([control.times[0], control.times[-1]]),
            self.solver,
            self.adjoint,
            on_backward=self._nfe_backward.update_state,
            on_drift=self._report_drift(),
            on_trace=self._field.note,
            times_are_data=True,
            jump_times=control.jump_times,
        )
        self._nfe.update_state(results.diagnostics.num_ode_fn_evaluations)
        if not self.return_sequences:
            return tf.cast(results.states[-1], self.compute_dtype)
        # The last row is none of the data's.
        states = tf.transpose(results.states[:-1], [1, 0, 2])
        # The first observation is not known before it.
        count = tf.cumsum(tf.cast(observed.observed, tf.int32), axis=1)
        states = tf.where(count[..., None] > 0, states, tf.zeros_like(states))
        return tf.cast(states, self.compute_dtype)

    def _ode_fn(self, control, training):
        field = self._field.bind(training)
        shape = [self.units, self._num_channels]

        def ode_fn(t, z):
            matrix = as_floats(field(t, z), "field", z.dtype)
            if matrix.shape[1:] != shape:
                matrix = self._reshaped(matrix, shape)
            slope = tf.cast(control.derivative(t), z.dtype)
            return tf.linalg.matvec(matrix, slope)

        return ode_fn

    def _reshaped(self, matrix, shape):
        if matrix.shape[1:] != [shape[0] * shape[1]]:
            raise ValueError(
                "The `field` must return a matrix for each sample, of shape "
                "(batch, units, channels) or (batch, units * channels), with "
                f"units={shape[0]} and channels={shape[1]}: time, features"
                f"{', counts' if self.count_observations else ''}"
                f"{', integrals' if self.integrate_values else ''}. "
                f"Received: a tensor of shape {matrix.shape}"
            )
        return tf.reshape(matrix, [-1, *shape])

    def compute_output_shape(self, inputs_shape):
        batch, num_times = inputs_shape["values"][:2]
        if self.return_sequences:
            return (batch, num_times, self.units)
        return (batch, self.units)

    def compute_output_spec(self, inputs, training=None):
        shapes = {name: tuple(x.shape) for name, x in inputs.items()}
        return keras.KerasTensor(
            self.compute_output_shape(shapes), self.compute_dtype
        )

    def get_config(self):
        config = super().get_config()
        config.pop("autocast", None)
        field = self.field
        if field is not None:
            field = configs.serialize_dynamics(field, "field")
        config.update(
            {
                "units": self.units,
                "field": field,
                "interpolation": self.interpolation,
                "return_sequences": self.return_sequences,
                "solver": solvers.serialize(self.solver),
                "adjoint": adjoints.serialize(self.adjoint),
                "count_observations": self.count_observations,
                "integrate_values": self.integrate_values,
            }
        )
        return configs.stamp(config)

    @classmethod
    def from_config(cls, config):
        return configs.from_config(cls, config, field=_read)


def _mask_of(inputs, values):
    """Returns the mask of each value: NaN is missing in a row that is not."""
    mask = ~tf.math.is_nan(values)
    if inputs.get("mask") is None:
        return mask
    given = tf.cast(inputs["mask"], tf.bool)
    if given.shape.rank == 2:
        given = given[..., None]
    return given & mask if given.shape.rank == 3 else given


def _check_field(field):
    """Raises `TypeError` unless a field is a layer of the state alone."""
    is_layer = isinstance(field, keras.layers.Layer)
    if field is None or (is_layer and not VectorField(field).takes_time):
        return
    raise TypeError(
        "The `field` must be a Keras layer or model of `z` alone: the clock of "
        "the solve says nothing of the data, whose times are a channel of the "
        f"path. Received: field={field!r}"
    )


def _read(config):
    return None if config is None else configs.deserialize(config)


def _default_field(size, dtype):
    # Smaller than Keras's own: `f` is multiplied with all that the path covers.
    small = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
    hidden = keras.layers.Dense(
        _WIDTH, "softplus", kernel_initializer=small.clone(), dtype=dtype
    )
    matrix = keras.layers.Dense(
        size, "tanh", kernel_initializer=small.clone(), dtype=dtype
    )
    return keras.Sequential([hidden, matrix])

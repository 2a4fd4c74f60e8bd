"""`CNFBijector`: a continuous normalizing flow as a bijector."""

import contextlib
import weakref

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node import adjoints, solvers
from keras_node import regularizers as regularization
from keras_node import trace as trace_estimators
from keras_node.common import nfe_metrics, tfp_internals
from keras_node.common.random_numbers import Seeds
from keras_node.dynamics import probe_noise, traced_field
from keras_node.dynamics.vector_field import VectorField
from keras_node.flows import building, event_shapes
from keras_node.flows.augmented_dynamics import augmented_dynamics
from keras_node.flows.cache_versions import CacheVersion, pinned
from keras_node.integration.options import Solving
from keras_node.integration.solve import solve
from keras_node.layers.integrated_penalties import Penalties
from keras_node.saving import configs
from keras_node.solvers import requested_times


@keras.saving.register_keras_serializable(package="keras_node")
class CNFBijector(Solving, tfp.bijectors.Bijector, keras.layers.Layer):
    """A continuous normalizing flow, as a bijector from `x` to `y`.

    With `z(t0) = x` and `dz/dt = f(t, z)`, `forward(x) = z(t1)`, and along the
    way

        d log p(z(t))/dt = -tr(df/dz)

    One solve gives state and log-det. The inverse is the solve with the times
    swapped, which is right for any `t0`, both directions of time, and dynamics
    that depend on time. Both are only as exact as their steps: for a density,
    use a solver such as `Tsit5(rtol=1e-5)`, or many fixed steps.

    Like every tfp bijector, it caches what it computed for a tensor while the
    result is alive: `log_prob` of a sample costs no second solve. Unlike
    others, it drops the cache when an option or a variable that it read changes
    and, eagerly, under a new `tf.GradientTape`; under several, a persistent
    one, or where no weight is trainable, each call solves.

    It is also a Keras layer: a layer or model that has it as an attribute
    tracks its weights, and shows its numbers of function evaluations as the
    metrics `<name>_nfe` and `<name>_nfe_backward`. If `dynamics` is not built,
    its weights are made at the first call.

    Args:
        dynamics: The vector field `f`, for each sample by itself: a Keras
            layer or model of `y` or of `(t, y)`, or any callable `f(t, y)`.
            If it also takes `condition`, it gets that of the call. The batch
            is flattened to one axis for it. If it has a method
            `divergence(t, y)`, that gives the exact trace.
        times: Tuple of two floats, `t0` and `t1`, in any unit. Default
            `(0.0, 1.0)`. Times between them, if any, are ignored.
        solver: Solver identifier, see `keras_node.solvers.get`. Default
            `"tsit5"`.
        adjoint: Adjoint identifier, see `keras_node.adjoints.get`. Default
            `"auto"`.
        trace: Trace estimator identifier, see `keras_node.trace.get`:
            `"exact"` (default), `"hutchinson"` or `"hutch++"`.
        event_ndims: Positive integer, the number of last axes that form an
            event. Default 1.
        validate_args: As in tfp's bijectors.
        name: String, the name of the bijector, and of the layer.
        regularizers: List of regularizers of the dynamics, see
            `keras_node.regularizers.get`. Each adds a loss and a metric, such
            as `<name>_kinetic_energy`. Default `None`.
        evaluation_trace: Trace estimator identifier for calls with
            `training=False`, such as those of `NormalizingFlow.evaluate` and
            `predict`. Default `None`, to use `trace`.

    Call arguments:
        x: Float tensor `(..., event)`.
        condition: Float tensor `(..., features)` for dynamics that take it;
            its other axes broadcast against the batch of `x`. A keyword of
            `forward`, `inverse` and their log-dets.
        training: Boolean or `None`, passed to dynamics that take it; see
            `evaluation_trace`. A keyword, like `condition`.

    Raises:
        ValueError: If an argument is out of its range, the derivative does
            not match the state, or the condition does not fit the dynamics.
        TypeError: If `dynamics` is not callable, or an event is not float.
        tf.errors.InvalidArgumentError: If a solve fails and the solver has
            `on_failure="raise"`.

    Example:
    >>> field = keras.Sequential(
    ...     [keras.layers.Dense(16, "tanh"), keras.layers.Dense(2)]
    ... )
    >>> flow = tfp.distributions.TransformedDistribution(
    ...     tfp.distributions.MultivariateNormalDiag(tf.zeros(2)),
    ...     keras_node.CNFBijector(field),
    ... )
    >>> flow.log_prob(flow.sample(8)).shape
    TensorShape([8])

    Reference:
    - [Chen et al., 2018, section 4](https://arxiv.org/abs/1806.07366)
    """

    citations = ("chen2018",)

    # Both a bijector and a layer: Keras finds weights only in layers, also
    # for a `keras.Model` with a bijector as an attribute and for a `.keras`
    # file, and tfp only in a `tf.Module`.

    # One solve gives value and log-det: the cache keeps both.
    _cache = tfp_internals.GreedyBijectorCache(
        forward_name="_solve_forward", inverse_name="_solve_inverse"
    )

    def __init__(
        self,
        dynamics,
        times=(0.0, 1.0),
        solver="tsit5",
        adjoint="auto",
        trace="exact",
        event_ndims=1,
        validate_args=False,
        name="cnf",
        regularizers=None,
        evaluation_trace=None,
    ):
        parameters = dict(locals())
        event_shapes.check_event_ndims(event_ndims)
        field = VectorField(dynamics, self)
        field.refuse_stateful_layers()
        keras.layers.Layer.__init__(self, name=name, autocast=False)
        self._cache_version = CacheVersion()
        self._had_condition = False
        self._last_condition = None  # A reference, if it was a variable.
        tfp.bijectors.Bijector.__init__(
            self,
            forward_min_event_ndims=event_ndims,
            validate_args=validate_args,
            parameters=parameters,
            name=name,
        )
        # A parent layer would call an unbuilt one, to build it.
        self.built = True
        self._is_field_built = self._is_called = False
        self._field_layers = []
        self.dynamics = dynamics
        self.field = field
        self.times = requested_times.as_static_times(times)
        self._set_options(solver, adjoint, f"{name}_drift")
        self.trace = trace_estimators.get(trace)
        self.evaluation_trace = (
            self.trace
            if evaluation_trace is None
            else trace_estimators.get(evaluation_trace)
        )
        self.event_ndims = event_ndims
        self._nfe = nfe_metrics.NFE(f"{name}_nfe")
        self._nfe_backward = nfe_metrics.NFE(f"{name}_nfe_backward")
        self._penalties = Penalties(regularizers, name)
        self._penalty_metrics = self._penalties.metrics
        self._seeds = None
        if self.trace.is_random or self._penalties.needs_probes:
            source = self.trace if self.trace.is_random else self._penalties
            self._seeds = Seeds(getattr(source, "seed", None))
        self._show_weights()

    @property
    def name(self):
        """The name, as bijector and as layer."""
        return self._name

    @name.setter
    def name(self, name):
        self._name = name

    @property
    def variables(self):
        """All weights of the dynamics, as Keras variables."""
        return keras.layers.Layer.variables.fget(self)

    @property
    def trainable_variables(self):
        """The trainable weights of the dynamics, as Keras variables."""
        return keras.layers.Layer.trainable_variables.fget(self)

    def _get_parameterization(self):
        # tfp's caches, a chain's too, identify a bijector by a hash of this.
        options = (self.solver, self.adjoint, self.trace, self.evaluation_trace)
        version = self._cache_version.current(self._read_variables(), options)
        return {**self.parameters, "times": self.times, "version": version}

    def _read_variables(self):
        """Returns the variables that solves are known to have read."""
        layers = self._layers_with_weights()
        weights = [v for layer in layers for v in layer.variables]
        others = self.field.other_variables(weights)
        condition = self._last_condition and self._last_condition()
        return [*weights, *others, *([] if condition is None else [condition])]

    @property
    def regularizers(self):
        """The list of regularizers of the dynamics."""
        return self._penalties.regularizers

    @property
    def diagnostics(self):
        """`keras_node.solvers.Diagnostics` of the last solve, or `None`.

        Inside a `tf.function` they are tensors of that function: return them
        from it to read them outside.
        """
        return self.__dict__.get("_diagnostics")

    @classmethod
    def _parameter_properties(cls, dtype):
        # No parameter has a batch shape that tfp could slice.
        return {}

    def _solve_forward(self, x, **options):
        if building.is_active():
            return self._build_for(x, **options)
        with self._asking_for_condition(options.get("condition")):
            y, log_det = self._solve(x, self.times, **options)
        return y, {"fldj": log_det, "ildj": -log_det}

    def _solve_inverse(self, y, **options):
        if building.is_active():
            return self._build_for(y, **options)
        with self._asking_for_condition(options.get("condition")):
            x, log_det = self._solve(y, self.times[::-1], **options)
        return x, {"fldj": -log_det, "ildj": log_det}

    @contextlib.contextmanager
    def _asking_for_condition(self, condition):
        """Names the missing condition if dynamics that had one fail.

        Some dynamics work without it; a layer that was built with it cannot.
        """
        try:
            yield
        except ValueError as error:
            if condition is None and self._had_condition:
                raise ValueError(
                    "The dynamics need a `condition`, as in an earlier call: "
                    "`bijector.forward(x, condition=c)`, or, for a "
                    "`NormalizingFlow`, `log_prob(x, condition=c)` and "
                    '`fit({"x": x, "condition": c})`. '
                    f"Received: dynamics={self.dynamics!r}, condition=None"
                ) from error
            raise
        self._had_condition |= condition is not None

    def _build_for(self, x, condition=None, training=None):
        """Makes the weights; returns what a solve over no time would."""
        self._rows_of(x, condition)
        self._had_condition |= condition is not None
        log_det = tf.zeros(self._batch_of(x), x.dtype)
        return tf.identity(x), {"fldj": log_det, "ildj": log_det}

    def _forward(self, x, **options):
        return self._solve_forward(x, **options)[0]

    def _inverse(self, y, **options):
        return self._solve_inverse(y, **options)[0]

    def _forward_log_det_jacobian(self, x, **kwargs):
        with pinned():
            attributes = self._cache.forward_attributes(x, **kwargs)
            self._cache.forward(x, **kwargs)
        return attributes["fldj"]

    def _inverse_log_det_jacobian(self, y, **kwargs):
        with pinned():
            attributes = self._cache.inverse_attributes(y, **kwargs)
            self._cache.inverse(y, **kwargs)
        return attributes["ildj"]

    def _solve(self, x, times, **options):
        # As a layer's call, for Keras to handle losses: those of a call replace
        # those of the previous one, unless both are part of a model's call.
        result = keras.layers.Layer.__call__(self, x, times=times, **options)
        condition = options.get("condition")
        if isinstance(condition, (tf.Variable, keras.Variable)):
            self._last_condition = weakref.ref(condition)
        self._cache_version.note(self._read_variables())
        return result

    def call(self, x, times, condition=None, training=None):
        """Returns the state at the last time, and its log-det."""
        y, condition = self._rows_of(x, condition)
        results = solve(
            self._ode_fn(y, condition, training),
            (
                y,
                tf.reduce_sum(tf.zeros_like(y), list(range(1, y.shape.rank))),
                self._penalties.zeros(y),
            ),
            (times[0], times[-1]),
            self.solver,
            self.adjoint,
            on_backward=self._nfe_backward.update_state,
            on_drift=self._report_drift(),
            num_controlled=2,
            on_trace=self.field.note,
        )
        self._track_field()
        if not self._is_called:
            self._is_called = True
            self.field.warn_of_untracked()
        self._nfe.update_state(results.diagnostics.num_ode_fn_evaluations)
        self.__dict__["_diagnostics"] = results.diagnostics
        states = tf.nest.map_structure(lambda leaf: leaf[-1], results.states)
        y, log_det, integrals = states
        self._penalties.report(self, integrals)
        y = tf.ensure_shape(tf.reshape(y, tf.shape(x)), x.shape)
        return y, tf.reshape(log_det, self._batch_of(x))

    def velocity(self, t, x, condition=None, training=None):
        """Returns the dynamics `f(t, x)` of points, each at its own time.

        Args:
            t: Float tensor `(batch,)`, times.
            x: Float tensor `(batch, ..., event)`.
            condition, training: As in a call.

        Returns:
            A tensor shaped as `x`.

        Raises:
            ValueError: If the dynamics only work with a scalar time.
        """
        with self._asking_for_condition(condition):
            y, condition = self._rows_of(x, condition)
            return self._velocity(t, x, y, condition, training)

    def _velocity(self, t, x, y, condition, training):
        batch = self._batch_of(x)
        t = tf.reshape(t, [-1] + [1] * (x.shape.rank - self.event_ndims - 1))
        t = tf.reshape(tf.broadcast_to(tf.cast(t, y.dtype), batch), [-1])
        ode_fn = self.field.bind(training, condition)
        self.field.note(traced_field.trace(ode_fn, t.shape, y))
        self._track_field()
        # Not the trace: the gradient of a call would take axes from what the
        # call returns, and XLA compile each step anew.
        (slope,) = traced_field.PythonField(ode_fn, y)(t, [y])
        slope = tf.cast(tf.reshape(slope, tf.shape(x)), x.dtype)
        return tf.ensure_shape(slope, x.shape)

    def _batch_of(self, x):
        return tf.shape(x)[: x.shape.rank - self.event_ndims]

    def _rows_of(self, x, condition):
        """Returns events and their conditions with one batch axis, checked.

        Makes the weights of the dynamics.
        """
        event_shapes.check_event(x, self.event_ndims)
        self.field.check_condition(condition)
        y = event_shapes.flatten_batch(x, self.event_ndims)
        if condition is not None:
            condition = event_shapes.flatten_condition(
                condition, x, self.event_ndims
            )
        self._build_dynamics(y, condition)
        return y, condition

    def _build_dynamics(self, y, condition):
        if not self._is_field_built:
            is_layer = isinstance(self.dynamics, keras.layers.Layer)
            self.field.build(
                requested_times.t_shape(self.solver),
                # A function may depend on the batch size; a layer must not.
                _symbolic(y, None if is_layer else y.shape[0]),
                None if condition is None else _symbolic(condition),
            )
            self._is_field_built = True
            self._track_field()
        self._show_weights()

    def _track_field(self):
        """Tracks the weights of networks that a callable holds."""
        layers = self.field.held_layers()
        if [id(x) for x in layers] != [id(x) for x in self._field_layers]:
            self._field_layers = layers
            self._show_weights()

    def _layers_with_weights(self):
        """Returns the layers that hold the weights of the dynamics."""
        is_layer = isinstance(self.dynamics, keras.layers.Layer)
        return [self.dynamics] if is_layer else self._field_layers

    def _show_weights(self):
        """Makes the weights, which are Keras's, visible to `tf.Module`.

        A `Chain` or a distribution looks for variables in the attributes of
        the modules that it contains.
        """
        layers = self._layers_with_weights()
        values = [v.value for layer in layers for v in layer.variables]
        # While Keras builds a model symbolically, some have no value yet.
        self.__dict__["_tf_weights"] = tuple(
            value for value in values if isinstance(value, tf.Variable)
        )

    def _ode_fn(self, y, condition, training):
        return augmented_dynamics(
            self.field,
            self.evaluation_trace if training is False else self.trace,
            self._penalties,
            y,
            probe_noise.key_of(
                self._seeds,
                training,
                [*self.trainable_variables, *self.field.trainable_variables()],
            ),
            condition,
            training,
        )

    def get_config(self):
        config = {
            "dynamics": configs.serialize_dynamics(self.dynamics),
            "times": self.times,
            "solver": solvers.serialize(self.solver),
            "adjoint": adjoints.serialize(self.adjoint),
            "trace": trace_estimators.serialize(self.trace),
            "event_ndims": self.event_ndims,
            "validate_args": self.validate_args,
            "name": self.name,
            "regularizers": regularization.serialize(self.regularizers),
            "evaluation_trace": None
            if self.evaluation_trace is self.trace
            else trace_estimators.serialize(self.evaluation_trace),
        }
        return configs.stamp(config)

    @classmethod
    def from_config(cls, config):
        return configs.from_config(cls, config, dynamics=configs.deserialize)


def _symbolic(tensor, batch=None):
    return keras.KerasTensor((batch, *tensor.shape[1:]), tensor.dtype.name)

"""The vector field: dynamics of any kind, called as `f(t, y)`."""

import functools
import inspect
import warnings
import weakref

import keras
import tensorflow as tf

from keras_node.common.held_layers import reachable_layers
from keras_node.common.keras_internals import flatten_layers
from keras_node.dynamics import traced_field
from keras_node.dynamics.refused_layers import refuse_stateful_layers


class VectorField:
    """The right-hand side `f` of `dy/dt = f(t, y)`.

    Args:
        dynamics: A Keras layer or model of `y`, or of `(t, y)`, such as a
            Functional model with inputs `[t, y]`; or any callable `f(t, y)`.
            A condition is passed by the name `condition`, to a Functional
            model as its third input.
        owner: Keras layer that solves with them, or `None` (default).
        name: String for messages, the name of the argument. Default
            `"dynamics"`; the other functions of time and state are called in
            the same way.

    Attributes:
        dynamics, owner: As above.

    Raises:
        TypeError: If `dynamics` is not callable, a class, or takes other
            arguments.
    """

    def __init__(self, dynamics, owner=None, name="dynamics"):
        if not callable(dynamics) or isinstance(dynamics, type):
            hint = ""
            if callable(dynamics):
                hint = " Create an object of the class."
            raise TypeError(
                f"`{name}` must be a Keras layer or model, or a callable "
                f"f(t, y).{hint} Received: {name}={dynamics!r}"
            )
        self.dynamics = dynamics
        self._read = {}  # References to variables, by identity.
        self.owner = owner
        if not self._is_layer:
            self._check_signature(name)

    @property
    def takes_time(self):
        """Whether the dynamics get the time; a callable always does."""
        if not self._is_layer:
            return True
        return self._takes_time or self._num_functional_inputs > 0

    @property
    def takes_condition(self):
        """Whether the dynamics take a `condition`."""
        if self._is_layer:
            # Some layers accept any keyword, but have no use for it.
            is_conditional = self._num_functional_inputs == 3
            return is_conditional or _has_parameter(
                self.dynamics.call, "condition"
            )
        parameters = _signature(self.dynamics).parameters.values()
        return _has_parameter(self.dynamics, "condition") or any(
            parameter.kind is parameter.VAR_KEYWORD for parameter in parameters
        )

    @property
    def needs_condition(self):
        """Whether the dynamics cannot do without a `condition`."""
        function = self.dynamics
        if self._is_layer:
            if self._num_functional_inputs:
                return self._num_functional_inputs == 3
            function = self.dynamics.call
        parameter = _signature(function).parameters.get("condition")
        return parameter is not None and parameter.default is parameter.empty

    def check_condition(self, condition):
        """Raises `ValueError` for a condition that is missing or not taken."""
        if condition is not None and not self.takes_condition:
            raise ValueError(
                "A `condition` needs dynamics that take it: a layer with "
                "`call(self, t, y, condition)`, a function f(t, y, condition), "
                "a Functional model with inputs [t, y, condition], or "
                "`ConcatTime(net)`. Received: "
                f"dynamics={self.dynamics!r}, condition={condition}"
            )
        if condition is None and self.needs_condition:
            raise ValueError(
                "The dynamics need a `condition`; pass it in the call, such as "
                "`bijector.forward(x, condition=c)`. "
                f"Received: dynamics={self.dynamics!r}, condition=None"
            )

    def bind(self, training=None, condition=None):
        """Returns the dynamics as a function `f(t, y)`.

        Args:
            training: Boolean or `None`, passed to layers that take it.
            condition: Tensor or structure that the dynamics depend on, or
                `None`.

        Raises:
            ValueError: If the dynamics do not take the condition, or need one
                and do not get it.
        """
        self.check_condition(condition)
        dynamics = self.dynamics
        options = {} if condition is None else {"condition": condition}
        if not self._is_layer:
            return functools.partial(dynamics, **options)
        if training is not None and _has_parameter(dynamics.call, "training"):
            options["training"] = training
        if self._num_functional_inputs:
            return functools.partial(_call_functional, dynamics, options)
        if self._takes_time:
            return lambda t, y: dynamics(t, y, **options)
        return lambda t, y: dynamics(y, **options)

    def build(self, t_shape, y, condition=None):
        """Creates the weights, and checks the layers and the derivative.

        Args:
            t_shape: Shape of the time, `()` or `(None,)`.
            y: `KerasTensor`, or a nested structure of them.
            condition: As `y`, or `None` (default).

        Raises:
            ValueError: If the derivative does not match the state, or there
                is a layer that `refuse_stateful_layers` refuses.
        """
        self.refuse_stateful_layers()
        self.make_weights(t_shape, y, condition)
        if condition is None:
            specs = tf.nest.map_structure(
                lambda leaf: tf.TensorSpec(leaf.shape, leaf.dtype), y
            )
            self.note(traced_field.trace(self.bind(), t_shape, specs))
        # Again, for layers that are created when others are built.
        self.refuse_stateful_layers()

    def make_weights(self, t_shape, y, condition=None):
        """Creates the weights; arguments as those of `build`."""
        # A Functional model is already built.
        if self._is_layer and not self._num_functional_inputs:
            t = keras.KerasTensor(t_shape, tf.nest.flatten(y)[0].dtype)
            self.bind(condition=condition)(t, y)

    def note(self, traced):
        """Notes the variables that traced dynamics read.

        Args:
            traced: `TracedField`.
        """
        # In a stateless call they read none of their usual variables.
        for variable in traced.read_variables:
            self._read[id(variable)] = weakref.ref(variable)

    def trainable_variables(self):
        """Returns the trainable variables that noted traces read.

        Also those of a function, which no layer tracks.
        """
        return [v for v in self._variables() if v.trainable]

    def other_variables(self, weights):
        """Returns the variables that noted traces read, but for weights.

        Args:
            weights: List of Keras variables.
        """
        known = {i for weight in weights for i in _ids(weight)}
        return [v for v in self._variables() if id(v) not in known]

    def _variables(self):
        variables = [reference() for reference in self._read.values()]
        return [variable for variable in variables if variable is not None]

    def refuse_stateful_layers(self):
        """Raises `ValueError` for layers that are not functions of their input.

        See `refused_layers.py`. Of the layers that a callable holds, checks
        those that it is known to read.
        """
        layers = [self.dynamics] if self._is_layer else self._used_layers()
        refuse_stateful_layers(layers)

    def _used_layers(self):
        """Returns the layers that a callable holds and reads.

        It may hold many more, such as the model that `owner` is part of.
        """
        return [
            layer
            for layer in reachable_layers(self.dynamics)
            if layer.built
            and self._reads(layer)
            and not _holds(layer, self.owner)
        ]

    def _reads(self, layer):
        variables = layer.variables
        return not variables or any(
            not _ids(variable).isdisjoint(self._read) for variable in variables
        )

    def held_layers(self):
        """Returns the layers that a callable holds, for `owner` to track.

        Leaves out dynamics that are a layer, which `owner` tracks already, and
        a model that `owner` is part of, which tracks its own layers.
        """
        return [] if self._is_layer else self._used_layers()

    def warn_of_untracked(self):
        """Warns of variables that a callable reads and nothing trains."""
        if self._is_layer:
            return  # Keras tracks the variables of a layer.
        holders = [self.owner, *reachable_layers(self.dynamics)]
        tracked = {i for h in holders for v in h.variables for i in _ids(v)}
        names = [
            variable.name
            for variable in self.trainable_variables()
            if id(variable) not in tracked
        ]
        if names:
            warnings.warn(
                "The dynamics read variables that no layer within reach "
                f"tracks: {self.owner.name!r} neither trains nor saves them. "
                "Hold their layer in a closure or as an attribute of a "
                "callable object, or write the dynamics as a Keras layer that "
                f"has these weights. Received: variables {names}",
                stacklevel=2,
            )

    def divergence(self, t, y, condition=None):
        """Returns the closed form of `tr(df/dy)`, `(batch,)`, or `None`."""
        if not hasattr(self.dynamics, "divergence"):
            return None
        options = {} if condition is None else {"condition": condition}
        return self.dynamics.divergence(t, y, **options)

    @property
    def _is_layer(self):
        return isinstance(self.dynamics, keras.layers.Layer)

    @property
    def _takes_time(self):
        """Whether a Keras layer is called as `layer(t, y)`, not `layer(y)`."""
        parameters = inspect.signature(self.dynamics.call).parameters.values()
        required = [
            parameter
            for parameter in parameters
            if parameter.default is parameter.empty
            and parameter.kind
            in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            and parameter.name not in ("condition", "training", "mask")
        ]
        return len(required) == 2

    @property
    def _num_functional_inputs(self):
        """Number of inputs of a Functional model that takes time, else 0.

        Two are `[t, y]`, three are `[t, y, condition]`; a dict is a state.
        """
        if not isinstance(self.dynamics, keras.Model) or self._takes_time:
            return 0
        inputs = getattr(self.dynamics, "inputs", None)
        if not isinstance(inputs, (list, tuple)) or len(inputs) not in (2, 3):
            return 0
        return 0 if isinstance(self.dynamics.input, dict) else len(inputs)

    def _check_signature(self, name):
        signature = _signature(self.dynamics)
        options = {"condition": None} if self.takes_condition else {}
        try:
            signature.bind("t", "y", **options)
        except TypeError as error:
            raise TypeError(
                f"`{name}` must take two arguments, the time and the state, "
                f"f(t, y). Received: {name}={self.dynamics!r} with signature "
                f"{signature}"
            ) from error


def _ids(variable):
    """Returns the identities of a Keras variable and its copies on replicas."""
    value = variable.value
    return {id(value), *(id(copy) for copy in getattr(value, "values", ()))}


def _holds(layer, owner):
    return any(part is owner for part in flatten_layers(layer))


def _signature(function):
    try:
        return inspect.signature(function)
    except ValueError:
        # Some callables of C extensions have no signature.
        return inspect.signature(lambda *args, **kwargs: None)


def _has_parameter(function, name):
    return name in _signature(function).parameters


def _call_functional(model, options, t, y):
    """Calls a Functional model, whose time may have a batch axis."""
    options = dict(options)
    rank = len(model.inputs[0].shape)
    if rank > 0:
        batch = tf.shape(tf.nest.flatten(y)[0])[0]
        t = tf.reshape(t, [-1] + [1] * (rank - 1))
        t = tf.broadcast_to(t, [batch] + [1] * (rank - 1))
    inputs = [t, y]
    if "condition" in options:
        inputs.append(options.pop("condition"))
    return model(inputs, **options)

"""Graphs of a model's methods, kept for as long as they are right."""

import functools

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node.adjoints import Adjoint
from keras_node.common import held_layers

# Attributes that may be Python functions, which may read anything.
_FUNCTIONS = ("dynamics", "make_distribution")
_PLAIN = (bool, bytes, complex, float, int, str)


class KeptGraphs:
    """Eager calls as graphs, one for each method and ranks of its arguments.

    A graph does for ever what Python said while it was traced. It is made
    anew when an attribute of one of the layers is another than it was: a
    weight (LoRA), a dtype policy (quantization), a solver or an adjoint or
    an attribute of these, a number in a layer of one's own. Where a layer
    calls a Python function, which may read anything, no graph is kept.
    """

    def __init__(self):
        self._functions = {}
        self._noted = {}

    def run(self, function, layers, *args):
        """Calls a method.

        Args:
            function: Bound method.
            layers: List of the Keras layers that it reads.
            *args: Its arguments, nested structures with tensors.
        """
        if any(_calls_python(layer) for layer in _flatten(layers)):
            return function(*args)
        ranks = [getattr(leaf, "ndim", None) for leaf in tf.nest.flatten(args)]
        # One that has seen two ranks knows neither.
        key = (function.__name__, *ranks)
        if not self.is_current(key, layers):
            self._functions[key] = tf.function(
                function, autograph=False, reduce_retracing=True
            )
        result = self._functions[key](*args)
        self.note(key, layers)
        return result

    def is_current(self, key, layers):
        """Whether layers are as they were when this was noted.

        Args:
            key: Hashable, whose graph.
            layers: List of Keras layers.
        """
        noted = self._noted.get(key)
        return noted is not None and _are_same(noted, _attributes(layers))

    def note(self, key, layers):
        """Takes note of the layers of a graph, once it has been traced.

        Not before: layers may set attributes in their first call.
        """
        self._noted[key] = _attributes(layers)


def _flatten(layers):
    return [
        inner for layer in layers for inner in held_layers.flatten_layers(layer)
    ]


def _calls_python(layer):
    functions = [getattr(layer, name, layer) for name in _FUNCTIONS]
    return not all(isinstance(f, keras.layers.Layer) for f in functions)


def _attributes(layers):
    """Returns a list of what is set on layers, Keras's own records aside."""
    return [
        leaf
        for layer in _flatten(layers)
        for name, value in vars(layer).items()
        if name not in _names_of_keras() and not name.startswith("_self_")
        for leaf in _leaves(value)
    ]


@functools.cache
def _names_of_keras():
    """Returns the attributes that every layer and model has.

    They record calls, training and what is inside, which is looked at itself.
    """
    of_fit = {"_eval_epoch_iterator", "history"}
    of_fit |= {"stop_evaluating", "stop_predicting", "stop_training"}
    # With a name, lest Keras counts it among those of users.
    names = of_fit | set(vars(keras.Model(name="any")))
    return names - {"_dtype_policy", "_trainable"}


def _leaves(value):
    """Yields the parts of an attribute that may be others next time."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
        return
    # The object itself: of one that is gone, another may take the `id`.
    yield value
    if isinstance(value, (Adjoint, tfp.math.ode.Solver)):
        yield from _leaves(vars(value))


def _are_same(noted, now):
    return len(noted) == len(now) and all(
        a is b or (isinstance(a, _PLAIN) and type(a) is type(b) and a == b)
        for a, b in zip(noted, now, strict=True)
    )

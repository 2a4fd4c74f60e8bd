"""Cache of graphs for the methods of a model."""

import functools

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node.adjoints import Adjoint
from keras_node.common.keras_internals import flatten_layers

# Attributes that may be Python functions, which may read anything.
_FUNCTIONS = ("dynamics", "function", "make_distribution")
_PLAIN = (bool, bytes, complex, float, int, str)


class KeptGraphs:
    """Runs eager calls as graphs, one for each method and ranks of arguments.

    A graph always repeats what Python did while it was traced. It is traced
    anew when an attribute of one of the layers has changed: a weight (LoRA), a
    dtype policy (quantization), a solver or an adjoint or an attribute of
    these, a number in a custom layer. If a layer calls a Python function,
    which may read anything, no graph is kept.
    """

    def __init__(self):
        self._functions = {}
        self._noted = {}

    def run(self, function, reads, *args):
        """Calls a method, as a graph if possible.

        Args:
            function: Bound method.
            reads: List of what it reads: Keras layers and other objects.
            *args: Its arguments, nested structures with tensors.
        """
        if any(_calls_python(layer) for layer in _flatten(reads)):
            return function(*args)
        ranks = [getattr(leaf, "ndim", None) for leaf in tf.nest.flatten(args)]
        # A graph that is traced with two ranks knows neither.
        key = (function.__name__, *ranks)
        if not self.is_current(key, reads):
            self._functions[key] = tf.function(
                function, autograph=False, reduce_retracing=True
            )
        result = self._functions[key](*args)
        self.note(key, reads)
        return result

    def is_current(self, key, reads):
        """Whether what a graph reads is as it was when `key` was noted.

        Args:
            key: Hashable that identifies the graph.
            reads: As in `run`.
        """
        noted = self._noted.get(key)
        return noted is not None and _are_same(noted, _attributes(reads))

    def note(self, key, reads):
        """Notes what a graph reads, to be called after it is traced.

        Layers may set attributes in their first call.
        """
        self._noted[key] = _attributes(reads)


def _flatten(reads):
    layers = [read for read in reads if isinstance(read, keras.layers.Layer)]
    return [inner for layer in layers for inner in flatten_layers(layer)]


def _calls_python(layer):
    functions = [getattr(layer, name, layer) for name in _FUNCTIONS]
    return not all(isinstance(f, keras.layers.Layer) for f in functions)


def _attributes(reads):
    """Returns the objects that are no layers, and the layers' attributes.

    Without Keras's own records.
    """
    others = [x for x in reads if not isinstance(x, keras.layers.Layer)]
    return others + [
        leaf
        for layer in _flatten(reads)
        for name, value in vars(layer).items()
        if name not in _names_of_keras() and not name.startswith("_self_")
        for leaf in _leaves(value)
    ]


@functools.cache
def _names_of_keras():
    """Returns the names of the attributes that every layer and model has.

    They record calls, training and the layers inside, which are compared
    themselves.
    """
    of_fit = {"_eval_epoch_iterator", "history"}
    of_fit |= {"stop_evaluating", "stop_predicting", "stop_training"}
    # With a name, so that it does not change the automatic names of others.
    names = of_fit | set(vars(keras.Model(name="any")))
    return names - {"_dtype_policy", "_trainable"}


def _leaves(value):
    """Yields the parts of an attribute that may have changed next time."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
        return
    # The object itself: its `id` may be reused once it is gone.
    yield value
    if isinstance(value, (Adjoint, tfp.math.ode.Solver)):
        yield from _leaves(vars(value))


def _are_same(noted, now):
    return len(noted) == len(now) and all(
        a is b or (isinstance(a, _PLAIN) and type(a) is type(b) and a == b)
        for a, b in zip(noted, now, strict=True)
    )

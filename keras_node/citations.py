"""Publications of the methods that an object uses, to be cited."""

import keras
import tensorflow_probability as tfp

from keras_node import adjoints, objectives, regularizers, solvers, trace
from keras_node.common import bibliography, keras_internals, tfp_variables

# Attributes that hold a method. Those of layers that are layers, Keras finds.
_OPTIONS = (
    "solver",
    "trace",
    "evaluation_trace",
    "regularizers",
    "events",
    "objective",
)
_GETTERS = (
    solvers.get,
    adjoints.get,
    trace.get,
    objectives.get,
    lambda name: regularizers.get([name])[0],
)


def citation(obj):
    """Returns the publications to cite for what an object uses, as BibTeX.

    Of a model these are the publications of its layers, and of the solvers,
    adjoints, trace estimators, objectives, regularizers and events that they
    are set to now. A class of this package names its own by their keys, in the
    attribute `citations`.

    Args:
        obj: Keras layer or model; tfp bijector or distribution; solver,
            adjoint, trace estimator, objective, regularizer, `Event`; the name
            of one, such as `"tsit5"`; or a list of such objects.

    Returns:
        String of BibTeX entries, each once, sorted by their keys.

    Raises:
        ValueError: If a name is unknown.
        TypeError: If the object uses nothing that has a publication here.

    Example:
    >>> print(keras_node.citation("tsit5"))
    @article{tsitouras2011,
      author = {Tsitouras, Ch.},
      ...
    >>> model = keras.Sequential([keras_node.ODELayer(keras.layers.Dense(2))])
    >>> keras_node.citation(model).count("@")  # Layer, solver and adjoint.
    5
    """
    keys = _keys_of(_from_name(obj) if isinstance(obj, str) else obj)
    if not keys:
        raise TypeError(
            "`obj` must be an object that uses a method of keras_node, such as "
            "a model with an `ODELayer`, or the name of one, such as 'tsit5'. "
            f"Received: obj={obj!r}"
        )
    return "\n\n".join(bibliography.ENTRIES[key] for key in sorted(keys))


def _from_name(name):
    for get in _GETTERS:
        try:
            return get(name)
        except ValueError:
            continue  # It may be another's.
    raise ValueError(
        "`obj` as a string must be the name of a solver, an adjoint, a trace "
        "estimator, an objective or a regularizer, such as 'tsit5'. "
        f"Received: obj={name!r}"
    )


def _keys_of(obj):
    """Returns the keys of an object, of its layers, and of their options."""
    keys = set()
    for part in _parts_of(obj):
        keys.update(getattr(part, "citations", ()))
        for option in _options_of(part):
            keys |= _keys_of(option)
    return keys


def _parts_of(obj):
    """Returns an object itself, or its layers at any depth, or its items."""
    if isinstance(obj, keras.layers.Layer):
        return keras_internals.flatten_layers(obj)
    if isinstance(
        obj, (tfp.bijectors.Bijector, tfp.distributions.Distribution)
    ):
        obj = tfp_variables.find(obj)[0]
    if isinstance(obj, (list, tuple)):
        return [part for item in obj for part in _parts_of(item)]
    return [obj]


def _options_of(part):
    options = [getattr(part, name, None) for name in _OPTIONS]
    adjoint = getattr(part, "adjoint", None)
    if isinstance(adjoint, adjoints.AutoAdjoint):
        adjoint = adjoint.choose(part.solver)
    return [option for option in [*options, adjoint] if option is not None]

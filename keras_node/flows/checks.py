"""Checks of the parts, the arguments and the data of a `NormalizingFlow`."""

import warnings

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from keras_node import objectives
from keras_node.common.arguments import is_integer
from keras_node.common.conversion import is_integer_tensor
from keras_node.flows.sampled_base import has_density


def check_sample_shape(sample_shape):
    """Raises `ValueError` unless it is a size or a tuple of sizes."""
    if isinstance(sample_shape, (tf.TensorShape, np.ndarray)):
        sample_shape = tuple(sample_shape)
    sizes = sample_shape
    if not isinstance(sample_shape, (tuple, list)):
        sizes = [sample_shape]
    if not all(
        is_integer_tensor(size) or (is_integer(size) and size >= 0)
        for size in sizes
    ):
        raise ValueError(
            "`sample_shape` must be an integer, at least 0, or a tuple of "
            f"such integers. Received: sample_shape={sample_shape!r}"
        )


def check_seed(seed):
    """Raises `TypeError` unless tfp takes it as a seed."""
    is_pair = isinstance(seed, (tuple, list)) and len(seed) == 2
    seeds = seed if is_pair else [seed]
    is_seed = seed is None or is_integer_tensor(seed)
    if not is_seed and not all(is_integer(number) for number in seeds):
        raise TypeError(
            "`seed` must be an integer, a pair of integers, or `None`. "
            f"Received: seed={seed!r}"
        )


def check_types(bijector, base_distribution):
    """Raises `TypeError` unless both are tfp objects."""
    tfb, tfd = tfp.bijectors, tfp.distributions
    for name, value, base in (
        ("bijector", bijector, tfb.Bijector),
        ("base_distribution", base_distribution, tfd.Distribution),
    ):
        if not isinstance(value, base):
            raise TypeError(
                f"`{name}` must be a tfp {base.__name__.lower()}. "
                f"Received: {name}={value!r} of type {type(value).__name__}"
            )


def check_events(bijector, base_distribution):
    """Raises `ValueError` unless the events of both fit."""
    rank = base_distribution.event_shape.rank
    least = bijector.forward_min_event_ndims
    if rank is not None and isinstance(least, int) and rank < least:
        raise ValueError(
            f"The bijector transforms events of {least} axes; the base "
            "distribution must have at least that many. Wrap it in "
            "`tfd.Independent`, or use one such as `MultivariateNormalDiag`. "
            f"Received: event_shape={base_distribution.event_shape}"
        )


def check_density(base_distribution):
    """Raises `ValueError` for a base distribution of samples alone."""
    if not has_density(base_distribution):
        raise ValueError(
            "A likelihood needs a base distribution with a density, such as "
            "`tfd.MultivariateNormalDiag`. With samples alone a flow is "
            'trained by `compile(..., objective="flow_matching")`, and gives '
            f"samples. Received: base_distribution={base_distribution!r}"
        )


def check_likelihood(objective, base_distribution):
    """Raises unless flows know the objective, and the base has a density."""
    if not isinstance(objective, objectives.Likelihood):
        raise TypeError(
            "`objective` must be a `Likelihood` or a `FlowMatching` of "
            f"`keras_node.objectives`. Received: objective={objective!r}"
        )
    check_density(base_distribution)


def check_names(layers):
    """Raises `ValueError` if two layers share a name."""
    names = [layer.name for layer in layers]
    if len(set(names)) < len(names):
        raise ValueError(
            "Each `CNFBijector` of a flow needs a name of its own, for its "
            'metrics: `CNFBijector(..., name="first")`. '
            f"Received: names={names}"
        )


def check_variables(distribution):
    """Raises `TypeError` for a Keras variable that tfp read only once."""
    for part in distribution.submodules:
        arguments = getattr(part, "parameters", {}).items()
        kept = {id(value) for value in vars(part).values()}
        for name, value in arguments:
            if isinstance(value, keras.Variable) and id(value) not in kept:
                raise TypeError(
                    "tfp reads a `keras.Variable` once and would not train "
                    "it: give tfp's bijectors and distributions a "
                    "`tf.Variable`. "
                    f"Received: {name}={value!r} in {part.name!r}"
                )


def warn_of_untracked(read, tracked):
    """Warns of variables that a flow uses but will not train."""
    if tf.distribute.has_strategy():
        return  # Each replica reads its own copy of a variable.
    known = {id(variable.value) for variable in tracked}
    missed = [variable for variable in read if id(variable) not in known]
    if missed:
        names = [(variable.name, tuple(variable.shape)) for variable in missed]
        warnings.warn(
            "A flow reads variables that it cannot find, so they will not be "
            "trained. Make the function that reads them an object that has "
            "the variable, or its layer, as an attribute. "
            f"Received: variables={names}",
            stacklevel=2,
        )


def check_keys(inputs):
    """Raises `ValueError` unless conditional data have their two keys."""
    if set(inputs) != {"x", "condition"}:
        raise ValueError(
            'Conditional data must be a dict {"x": ..., "condition": ...}. '
            f"Received: keys={sorted(inputs)}"
        )

"""A vector field with its divergence in closed form."""

import keras
import tensorflow as tf

from keras_node.layers.time_wrappers import ConcatTime, IgnoreTime

# Functions of each number alone, unlike a softmax.
_ELEMENTWISE = [
    getattr(keras.activations, name)
    for name in (
        "celu elu exponential gelu hard_sigmoid hard_silu hard_tanh leaky_relu "
        "linear log_sigmoid mish relu relu6 selu sigmoid silu softplus "
        "softsign squareplus tanh tanh_shrink"
    ).split()
]


def bind_with_divergence(field, training=None, condition=None):
    """Returns the dynamics as `f(t, y) -> (dy/dt, find_divergence)`.

    `find_divergence()` returns that of the dynamics' own method `divergence(t,
    y)`, or of a dense network; `None` where there is no closed form.

    Args:
        field: `VectorField`.
        training, condition: As in `VectorField.bind`.
    """
    ode_fn = field.bind(training, condition)

    def bound(t, y):
        layers = _dense_layers(field.dynamics, y)
        x = _features(field.dynamics, t, y, condition) if layers else None
        # Of sizes that do not fit, Keras and the solve say which would.
        if layers and _sizes(layers) == (x.shape[-1], y.shape[-1]):
            return _evaluate(layers, x, y)
        return ode_fn(t, y), lambda: field.divergence(t, y, condition)

    return bound


def _dense_layers(dynamics, y):
    """Returns the layers of dynamics that are a plain dense network, or `[]`.

    With more than two nonlinear layers the closed form costs as much as the
    products with all unit vectors.
    """
    is_wrapper = type(dynamics) in (ConcatTime, IgnoreTime)
    net = dynamics.net if is_wrapper else dynamics
    layers = net.layers if type(net) is keras.Sequential else [net]
    is_dense = (
        y.shape.rank == 2
        and not hasattr(dynamics, "divergence")
        and all(_is_plain(layer, y.dtype) for layer in layers)
        # They cast what they are called with.
        and all(x.input_dtype == y.dtype.name for x in (dynamics, net))
        and len([layer for layer in layers if _is_nonlinear(layer)]) <= 2
    )
    return layers if is_dense else []


def _is_plain(layer, dtype):
    """Whether a layer does no more than `activation(x @ kernel + bias)`."""
    return (
        type(layer) is keras.layers.Dense
        and layer.built
        and any(layer.activation is function for function in _ELEMENTWISE)
        and layer.activity_regularizer is None
        and layer.compute_dtype == dtype.name
        and layer.quantization_mode is None
        and not layer.lora_enabled
        # A scope of mixed precision would cast it.
        and keras.ops.convert_to_tensor(layer.kernel).dtype == dtype
    )


def _is_nonlinear(layer):
    return layer.activation is not keras.activations.linear


def _sizes(layers):
    """Returns the sizes of the first layer's input and the last's output."""
    return layers[0].kernel.shape[0], layers[-1].kernel.shape[-1]


def _features(dynamics, t, y, condition):
    """Returns the input of the first dense layer."""
    if type(dynamics) is ConcatTime:
        return dynamics.features(t, y, condition)
    return y


def _evaluate(layers, x, y):
    """Returns the value of a dense network, and what finds its divergence.

    With weights `W_1, ..., W_L` and the diagonal matrices `S_l` of the
    activations' derivatives, the Jacobian of a row `y` is the product
    `W_1 S_1 ... W_L S_L`, of whose first factor only the rows of the state
    count. A trace may be rotated: of two diagonals, at `j < l`, there remains

        tr(S_j A S_l B) = s_j^T (A * B^T) s_l,

    where `A` is the product of the weights between them, `B` that of the
    weights behind `l` and up to `j`, and `*` is elementwise: of the batch one
    product of matrices, whatever the dimension.
    """
    weights, slopes = [], []
    for layer in layers:
        weights.append(keras.ops.convert_to_tensor(layer.kernel))
        x, slope = _call(layer, x, weights[-1])
        slopes.append(slope)
    weights[0] = weights[0][: y.shape[-1]]
    return x, lambda: _trace(weights, slopes, y)


def _call(layer, x, kernel):
    """Returns `(outputs, derivative of the activation)` of a dense layer."""
    z = tf.matmul(x, kernel)
    if layer.use_bias:
        z = tf.nn.bias_add(z, keras.ops.convert_to_tensor(layer.bias))
    if not _is_nonlinear(layer):
        return z, None
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(z)
        outputs = layer.activation(z)
    return outputs, tape.gradient(outputs, z)


def _trace(weights, slopes, y):
    """Returns the trace of `weights[0] diag(slopes[0]) weights[1] ...`."""
    # The products of weights between slopes; the first and last are one.
    products, found = [weights[0]], []
    for slope, weight in zip(slopes, [*weights[1:], None], strict=True):
        if slope is not None:
            found.append(slope)
            products.append(weight)
        elif weight is not None:
            last = products[-1]
            products[-1] = weight if last is None else tf.matmul(last, weight)
    if not found:
        trace = tf.linalg.trace(products[0])
        return tf.fill(tf.shape(y)[:1], trace)
    if len(found) == 1:
        first, last = products
        diagonal = (
            tf.linalg.diag_part(first)
            if last is None
            else tf.reduce_sum(first * tf.transpose(last), axis=0)
        )
        return tf.linalg.matvec(found[0], diagonal)
    first, between, last = products
    around = first if last is None else tf.matmul(last, first)
    weighted = tf.matmul(found[0], between * tf.transpose(around))
    return tf.reduce_sum(weighted * found[1], axis=-1)

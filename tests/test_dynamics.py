"""Tests of what `ODELayer` takes as dynamics, `ConcatTime`, `IgnoreTime`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_node


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


@keras.saving.register_keras_serializable(package="tests")
class TimeField(keras.layers.Layer):
    """`dy/dt = y w cos(t)`, which has the solution `y0 exp(w sin(t))`."""

    def build(self, t_shape, y_shape):
        self.shapes = (t_shape, y_shape)
        self.w = self.add_weight(shape=(y_shape[-1],), name="w")

    def call(self, t, y):
        t = keras.ops.reshape(t, keras.ops.shape(t) + (1,) * (y.ndim - t.ndim))
        return y * self.w * keras.ops.cos(t)


class NoBuild(keras.layers.Layer):
    """A layer of the state that is built in the first call."""

    def __init__(self, units):
        super().__init__()
        self.net = keras.layers.Dense(units)

    def call(self, y):
        return self.net(y)


class NoBuildField(keras.layers.Layer):
    """Time enters a network that is built in the first call."""

    def __init__(self, units):
        super().__init__()
        self.net = keras.layers.Dense(units)

    def call(self, t, y):
        return self.net(y) * t


def functional_field(t, units):
    y = keras.Input((units,), name="y")
    return keras.Model([t, y], keras.layers.Dense(units)(y) * t)


def random_normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def solve(f, y0, times=(0.0, 1.0)):
    """Returns the last state of `odeint`, for a layer to be compared to."""
    states = keras_node.odeint(f, y0, times).states
    return tf.nest.map_structure(lambda state: state[-1].numpy(), states)


def one_input_dense():
    net = keras.layers.Dense(3)
    return net, lambda t, y: net(y), (3,)


def unbuilt_sequential():
    net = keras.Sequential(
        [keras.layers.Dense(5, "tanh"), keras.layers.Dense(3)]
    )
    return net, lambda t, y: net(y), (3,)


def subclass_of_time_and_state():
    net = TimeField()
    return net, lambda t, y: y * net.w * tf.cos(t), (3,)


def subclass_without_build():
    net = NoBuildField(3)
    return net, lambda t, y: net.net(y) * t, (3,)


def functional_of_scalar_time():
    return functional_case(keras.Input(batch_shape=(), name="t"))


def functional_of_time_of_each_sample():
    return functional_case(keras.Input((1,), name="t"))


def functional_case(t):
    net = functional_field(t, 3)
    dense = next(layer for layer in net.layers if layer.weights)
    return net, lambda t, y: dense(y) * t, (3,)


def functional_of_one_input():
    y = keras.Input((3,))
    net = keras.Model(y, keras.layers.Dense(3, "tanh")(y))
    return net, lambda t, y: net(y), (3,)


def callable_with_variable():
    w = tf.Variable([[0.5, -1.0], [1.0, 0.2]])
    return lambda t, y: t * y @ w, lambda t, y: t * y @ w, (2,)


def concat_time_dense():
    net = keras.layers.Dense(2)
    expected = lambda t, y: net(tf.pad(y, [[0, 0], [0, 1]], constant_values=t))  # noqa: E731
    return keras_node.ConcatTime(net), expected, (2,)


def concat_time_conv():
    net = keras.layers.Conv2D(2, 3, padding="same")

    def expected(t, y):
        return net(tf.concat([y, tf.fill(tf.shape(y[..., :1]), t)], -1))

    return keras_node.ConcatTime(net), expected, (4, 4, 2)


def ignore_time():
    net = keras.layers.Dense(2)
    return keras_node.IgnoreTime(net), lambda t, y: net(y), (2,)


KINDS = [
    one_input_dense,
    unbuilt_sequential,
    subclass_of_time_and_state,
    subclass_without_build,
    functional_of_scalar_time,
    functional_of_time_of_each_sample,
    functional_of_one_input,
    callable_with_variable,
    concat_time_dense,
    concat_time_conv,
    ignore_time,
]


@pytest.mark.filterwarnings("ignore:The dynamics read variables")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_layer_gives_what_odeint_gives(kind):
    dynamics, f, shape = kind()
    x = random_normal(2, *shape)
    y = keras_node.ODELayer(dynamics)(x)
    assert np.abs(y - x).max() > 1e-2
    # A convolution adds the channel of time in another order.
    np.testing.assert_allclose(y, solve(f, x), rtol=5e-6, atol=5e-6)


def test_functional_model_of_a_dict_takes_the_state():
    x, v = (keras.Input((1,), name=name) for name in "xv")
    negated = keras.layers.Rescaling(-1.0)(x)
    swapped = {"x": keras.layers.Identity()(v), "v": negated}
    pendulum = keras.Model({"x": x, "v": v}, swapped)
    state = {"x": tf.ones((1, 1)), "v": tf.zeros((1, 1))}
    end = keras_node.ODELayer(pendulum, solver="dopri8")(state)
    np.testing.assert_allclose(end["x"], [[np.cos(1.0)]], atol=1e-4)
    np.testing.assert_allclose(end["v"], [[-np.sin(1.0)]], atol=1e-4)


@pytest.mark.parametrize("cls", [keras_node.ConcatTime, keras_node.IgnoreTime])
def test_wrapper_takes_a_net_that_is_built_in_its_first_call(cls):
    net = NoBuild(2)
    y = keras_node.ODELayer(cls(net))(random_normal(3, 2))
    features = 3 if cls is keras_node.ConcatTime else 2
    assert y.shape == (3, 2)
    assert tuple(net.net.kernel.shape) == (features, 2)


def test_odeint_takes_the_layer_itself():
    dynamics, f, shape = concat_time_dense()
    x = random_normal(2, *shape)
    np.testing.assert_allclose(solve(dynamics, x), solve(f, x), rtol=1e-6)
    dynamics, f, shape = one_input_dense()
    np.testing.assert_allclose(
        solve(dynamics, random_normal(2, *shape)),
        solve(f, random_normal(2, *shape)),
        rtol=1e-6,
    )


def test_linear_layer_is_the_matrix_exponential():
    net = keras.layers.Dense(3, use_bias=False)
    x = random_normal(2, 3)
    y = keras_node.ODELayer(net, solver=keras_node.solvers.Tsit5(rtol=1e-6))(x)
    expected = x @ tf.linalg.expm(net.kernel.value)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_build_of_time_and_state_receives_both_shapes():
    layer = keras_node.ODELayer(TimeField(), times=(0.0, 0.5, 1.0))
    layer.build((None, 3))
    t_shape, y_shape = layer.dynamics.shapes
    assert tuple(t_shape) == ()
    assert tuple(y_shape) == (None, 3)
    assert [tuple(w.shape) for w in layer.trainable_weights] == [(3,)]


def test_time_field_has_its_closed_form():
    field = TimeField()
    solver = keras_node.solvers.Tsit5(rtol=1e-6)
    x = random_normal(2, 3)
    y = keras_node.ODELayer(field, times=(0.5, 2.0), solver=solver)(x)
    expected = x * np.exp(field.w * (np.sin(2.0) - np.sin(0.5)))
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_time_field_takes_a_clock_for_each_sample():
    field = TimeField()
    solver = keras_node.solvers.Tsit5(rtol=1e-6)
    x = random_normal(3, 2, 2)
    times = np.array([[0.0, 1.0], [0.5, 2.0], [-1.0, 0.2]])
    y = keras_node.ODELayer(field, solver=solver)(x, times=times)
    angle = np.sin(times[:, 1]) - np.sin(times[:, 0])
    expected = x * np.exp(field.w * angle[:, None, None])
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_functional_model_takes_a_clock_for_each_sample():
    t = keras.Input((), name="t")
    y = keras.Input((2,), name="y")
    rate = keras.layers.Reshape((1,))(keras.ops.cos(t))
    layer = keras_node.ODELayer(
        keras.Model([t, y], y * rate),
        solver=keras_node.solvers.Tsit5(rtol=1e-6, per_sample_steps=True),
    )
    x = random_normal(3, 2)
    expected = x * np.exp(np.sin(1.0))
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5)


def test_dict_state_keeps_its_structure():
    def rotate(t, y):
        return {"x": y["v"], "v": -y["x"]}

    state = {"x": np.ones((2, 1), "float32"), "v": np.zeros((2, 1), "float32")}
    layer = keras_node.ODELayer(
        rotate, solver=keras_node.solvers.Tsit5(rtol=1e-6)
    )
    y = layer(state)
    assert sorted(y) == ["v", "x"]
    np.testing.assert_allclose(y["x"], np.full((2, 1), np.cos(1.0)), rtol=1e-5)
    np.testing.assert_allclose(y["v"], np.full((2, 1), -np.sin(1)), rtol=1e-5)


@keras.saving.register_keras_serializable(package="tests")
def shear(t, y):
    a, b = y
    return (keras.ops.sum(b, axis=-1, keepdims=True), keras.ops.zeros_like(b))


def test_tuple_state_flows_through_a_functional_model():
    inputs = (keras.Input((1,)), keras.Input((2,)))
    outputs = keras_node.ODELayer(shear, return_sequences=True)(inputs)
    assert [output.shape for output in outputs] == [(None, 2, 1), (None, 2, 2)]
    a, b = random_normal(3, 1), random_normal(3, 2)
    y = keras.Model(inputs, outputs)([a, b])
    np.testing.assert_allclose(
        y[0][:, 1], a + b.sum(-1, keepdims=True), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(y[1], np.stack([b, b], 1), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:The dynamics read variables")
def test_gradient_reaches_a_variable_that_a_callable_closes_over():
    w = tf.Variable(0.5)
    layer = keras_node.ODELayer(
        lambda t, y: w * y, solver=keras_node.solvers.Tsit5(rtol=1e-7)
    )
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.ones((2, 1))))
    expected = 2 * np.exp(0.5)
    np.testing.assert_allclose(tape.gradient(loss, w), expected, rtol=1e-5)


def test_gradient_reaches_a_tensor_that_a_callable_closes_over():
    w = tf.constant(0.5)
    with tf.GradientTape() as tape:
        tape.watch(w)
        c = 2 * w
        layer = keras_node.ODELayer(
            lambda t, y: c * y, solver=keras_node.solvers.Tsit5(rtol=1e-7)
        )
        loss = tf.reduce_sum(layer(tf.ones((2, 1))))
    expected = 2 * 2 * np.exp(1.0)
    np.testing.assert_allclose(tape.gradient(loss, w), expected, rtol=1e-5)


def test_training_reaches_dynamics_that_take_it():
    class Sign(keras.layers.Layer):
        def call(self, y, training=False):
            return y if training else -y

    layer = keras_node.ODELayer(
        Sign(), solver=keras_node.solvers.Tsit5(rtol=1e-6)
    )
    x = np.ones((2, 1), "float32")
    np.testing.assert_allclose(layer(x), x * np.exp(-1), rtol=1e-5)
    np.testing.assert_allclose(
        layer(x, training=True), x * np.exp(1), rtol=1e-5
    )


class Holder(keras.layers.Layer):
    """Holds a layer in a list, as a subclass may."""

    def __init__(self, layer):
        super().__init__()
        self.held = [layer]

    def call(self, t, y):
        return self.held[0](y)


REFUSED = {
    keras.layers.BatchNormalization(): "LayerNormalization",
    keras.layers.SpectralNormalization(
        keras.layers.Dense(2)
    ): "LayerNormalization",
    keras.layers.Dropout(0.5): "weight decay",
    keras.layers.SpatialDropout1D(0.5): "weight decay",
    keras.layers.AlphaDropout(0.5): "weight decay",
    keras.layers.GaussianDropout(0.5): "weight decay",
    keras.layers.GaussianNoise(0.5): "weight decay",
}


class Maker(keras.layers.Layer):
    """Makes a layer when built, as `MultiHeadAttention` its dropout."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def build(self, shape):
        self.made = self.make()
        self.made.build(shape)

    def call(self, y):
        return self.made(y)


NESTINGS = {
    "alone": lambda layer: layer,
    "in a Sequential": lambda layer: keras.Sequential(
        [keras.layers.Dense(2), keras.Sequential([layer])]
    ),
    "in ConcatTime": lambda layer: keras_node.ConcatTime(
        keras.Sequential([keras.layers.Dense(2), layer])
    ),
    "in a list of a subclass": Holder,
}


@pytest.mark.parametrize(
    ("refused", "remedy"), REFUSED.items(), ids=lambda x: type(x).__name__
)
@pytest.mark.parametrize("nest", NESTINGS.values(), ids=NESTINGS)
def test_layer_that_changes_at_each_evaluation_is_refused(
    refused, remedy, nest
):
    layer = keras_node.ODELayer(nest(refused))
    with pytest.raises(ValueError, match="Received") as error:
        layer.build((None, 2))
    assert remedy in str(error.value)
    assert type(refused).__name__ in str(error.value)


@pytest.mark.parametrize(
    "make",
    [keras.layers.BatchNormalization, lambda: keras.layers.Dropout(0.5)],
    ids=["norm", "dropout"],
)
def test_layer_that_dynamics_make_when_built_is_refused_too(make):
    layer = keras_node.ODELayer(Maker(make))
    with pytest.raises(ValueError, match="Received: a layer"):
        layer.build((None, 2))


def test_refusal_comes_in_the_symbolic_call_too():
    layer = keras_node.ODELayer(keras.layers.Dropout(0.5))
    with pytest.raises(ValueError, match="Dropout"):
        layer(keras.Input((2,)))


@pytest.mark.parametrize(
    "norm",
    [
        keras.layers.LayerNormalization,
        lambda: keras.layers.GroupNormalization(1),
    ],
    ids=["layer", "group"],
)
def test_remedies_of_the_refusal_are_accepted(norm):
    net = keras.Sequential([keras.layers.Dense(2), norm()])
    assert keras_node.ODELayer(net)(random_normal(2, 2)).shape == (2, 2)


@pytest.mark.parametrize(
    ("dynamics", "names"),
    [
        (lambda t, y: y[:, :1], ["shape", "(None, 1)", "(None, 2)"]),
        (lambda t, y: tf.cast(y, tf.float64), ["float64", "float32"]),
        (lambda t, y: (y, y), ["struct"]),
        (lambda t, y: {"y": y}, ["struct"]),
        (lambda t, y: None, ["None"]),
        (keras.layers.Dense(3), ["shape", "(None, 3)", "(None, 2)"]),
    ],
    ids=["shape", "dtype", "tuple", "dict", "none", "dense"],
)
def test_derivative_unlike_the_state_is_refused_when_built(dynamics, names):
    layer = keras_node.ODELayer(dynamics)
    with pytest.raises(ValueError, match="Received") as error:
        layer.build((None, 2))
    for name in names:
        assert name in str(error.value)


def test_concat_time_appends_a_scalar_time_as_the_last_channel():
    net = keras.layers.Identity()
    field = keras_node.ConcatTime(net)
    y = random_normal(2, 3, 3, 2)
    outputs = field(tf.constant(0.5), y)
    assert outputs.shape == (2, 3, 3, 3)
    np.testing.assert_array_equal(outputs[..., :2], y)
    np.testing.assert_array_equal(outputs[..., 2], np.full((2, 3, 3), 0.5))


def test_concat_time_gives_each_sample_its_time():
    field = keras_node.ConcatTime(keras.layers.Identity())
    outputs = field(tf.constant([0.5, -2.0]), random_normal(2, 3, 2))
    np.testing.assert_array_equal(outputs[0, :, 2], np.full(3, 0.5))
    np.testing.assert_array_equal(outputs[1, :, 2], np.full(3, -2.0))


def test_concat_time_builds_the_net_with_one_more_channel():
    field = keras_node.ConcatTime(keras.layers.Dense(2))
    field.build((), (None, 4))
    assert tuple(field.net.kernel.shape) == (5, 2)
    assert len(field.trainable_weights) == 2


def test_concat_time_and_ignore_time_know_their_shapes_symbolically():
    t, y = keras.Input(batch_shape=()), keras.Input((4, 4, 3))
    conv = keras.layers.Conv2D(5, 3, padding="same")
    assert keras_node.ConcatTime(conv)(t, y).shape == (None, 4, 4, 5)
    dense = keras.layers.Dense(6)
    assert keras_node.IgnoreTime(dense)(t, y).shape == (None, 4, 4, 6)


@pytest.mark.parametrize("cls", [keras_node.ConcatTime, keras_node.IgnoreTime])
def test_wrapper_of_a_net_round_trips_through_its_config(cls):
    field = cls(keras.layers.Dense(2, "tanh", name="inner"), name="outer")
    config = field.get_config()
    kept = keras.tree.map_structure(lambda x: x, config)
    copy = cls.from_config(config)
    assert config == kept
    assert copy.name == "outer"
    assert copy.net.name == "inner"
    assert copy.get_config() == kept


def test_ignore_time_gives_what_its_net_gives():
    net = keras.layers.Dense(2)
    y = random_normal(3, 2)
    np.testing.assert_array_equal(
        keras_node.IgnoreTime(net)(tf.constant(1.0), y), net(y)
    )


@pytest.mark.parametrize("cls", [keras_node.ConcatTime, keras_node.IgnoreTime])
@pytest.mark.parametrize("net", [None, "tanh", 3])
def test_wrapper_refuses_what_is_no_layer(cls, net):
    with pytest.raises((TypeError, ValueError), match="Received"):
        cls(net)


def test_numeric_gradient_agrees_through_concat_time():
    # Central differences in float32 are good to about 1e-3.
    dynamics, _, shape = concat_time_dense()
    layer = keras_node.ODELayer(
        dynamics, solver=keras_node.solvers.RK4(step_size=0.25)
    )
    x = tf.constant(random_normal(1, *shape))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(layer(x) ** 2)
    direction = tf.constant([[0.6, -0.8]])
    shifted = [
        tf.reduce_sum(layer(x + sign * 1e-2 * direction) ** 2)
        for sign in (1, -1)
    ]
    expected = (shifted[0] - shifted[1]) / 2e-2
    slope = tf.reduce_sum(tape.gradient(loss, x) * direction)
    np.testing.assert_allclose(slope, expected, rtol=2e-3)


CONVOLUTIONS = {
    "plain": {},
    "strided": {"strides": 2, "padding": "valid"},
    "dilated": {"dilation_rate": 2, "use_bias": False},
    "activated": {"activation": "tanh"},
    # These are no plain convolutions, and see the concatenation.
    "grouped": {"groups": 2},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("t", [0.7, [0.7, -0.2]], ids=["scalar", "per sample"])
def test_convolution_of_state_and_time_is_that_of_their_concatenation(name, t):
    options = {"padding": "same", **CONVOLUTIONS[name]}
    conv = keras.layers.Conv2D(4, 3, bias_initializer="normal", **options)
    field = keras_node.ConcatTime(conv)
    y = tf.random.stateless_normal((2, 6, 6, 3), (0, 1))
    t = tf.constant(t)
    field(t, y)

    def concatenated(t, y):
        times = tf.reshape(t, [-1, 1, 1, 1]) * tf.ones_like(y[..., :1])
        return conv(tf.concat([y, times], axis=-1))

    results = []
    for function in (field, concatenated):
        with tf.GradientTape() as tape:
            tape.watch([t, y])
            outputs = function(t, y)
            loss = tf.reduce_sum(outputs**2)
        sources = [t, y, *conv.trainable_weights]
        results.append([outputs, *tape.gradient(loss, sources)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_convolution_of_state_and_time_keeps_lora_and_half_precision():
    y = tf.random.stateless_normal((2, 4, 4, 3), (0, 1))
    conv = keras.layers.Conv2D(4, 3, padding="same", dtype="mixed_bfloat16")
    field = keras_node.ConcatTime(conv, dtype="mixed_bfloat16")
    before = field(tf.constant(0.5), y)
    assert before.dtype == "bfloat16"
    conv.enable_lora(2)
    conv.lora_kernel_b.assign(tf.ones(conv.lora_kernel_b.shape))
    after = field(tf.constant(0.5), y)
    assert np.abs(tf.cast(after - before, "float32")).max() > 0.1

"""Tests that weights of dynamics are trained, wherever they are kept."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.gradients import ADJOINTS, MODES, assert_close, float64
from support.modes import (
    RTOL,
    STATE,
    Field,
    decay,
    face,
    latent_ode,
    log_prob_gradient,
    normalizing_flow,
    rk4,
    series,
    solve,
)

import keras_node


def network():
    """Returns a small network, not built."""
    return keras.Sequential(
        [keras.layers.Dense(3, "tanh"), keras.layers.Dense(2)]
    )


class Physics:
    """Dynamics as people write them: an object that holds a network."""

    def __init__(self, net):
        self.net = net

    def __call__(self, t, y):
        return self.net(y)

    def method(self, t, y):
        return self.net(y)


class Parts:
    """Holds its networks in a list and a dict."""

    def __init__(self, net):
        self.nets = {"first": [net]}

    def __call__(self, t, y):
        return self.nets["first"][0](y)


def with_net(net, t, y):
    return net(y)


def with_net_as_keyword(t, y, net):
    return net(y)


def with_default(net):
    def dynamics(t, y, net=net):
        return net(y)

    return dynamics


def two_functions(net):
    """Closes over a function that closes over the network."""

    def inner(y):
        return net(y)

    return lambda t, y: inner(y)


def bound_call(net):
    """Closes over a method of the network."""
    call = net.__call__
    return lambda t, y: call(y)


WAYS = {
    "lambda": lambda net: lambda t, y: net(y),
    "list": lambda net: (lambda nets: lambda t, y: nets[0](y))([net]),
    "callable_object": Physics,
    "bound_method": lambda net: Physics(net).method,
    "partial": lambda net: functools.partial(with_net, net),
    "partial_keyword": lambda net: functools.partial(
        with_net_as_keyword, net=net
    ),
    "partial_of_method": lambda net: functools.partial(Physics(net).method),
    "object_in_closure": lambda net: (lambda p: lambda t, y: p(t, y))(
        Physics(net)
    ),
    "object_with_parts": Parts,
    "two_functions": two_functions,
    "bound_call": bound_call,
    "tf_function": lambda net: tf.function(lambda t, y: net(y)),
}

POINTS = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")


def regression(dynamics):
    """Returns a model with an `ODELayer`, and its data."""
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras_node.ODELayer(dynamics, solver=rk4(), name="ode"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model, (POINTS, POINTS[:, ::-1])


def density(dynamics):
    """Returns a `NormalizingFlow`, and its data."""
    model = normalizing_flow(dynamics, dtype="float32")
    model.compile(keras.optimizers.SGD(0.1))
    return model, (POINTS,)


def in_a_model(dynamics):
    """Returns a Keras model that has a `CNFBijector` as its attribute."""

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.bijector = keras_node.CNFBijector(dynamics, solver=rk4())

        def call(self, x):
            return self.bijector.forward(x)

    model = Model()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model, (POINTS, POINTS[:, ::-1])


def trajectory(dynamics):
    """Returns a `LatentODE`, and its data."""
    model = latent_ode(dynamics)
    model.compile(keras.optimizers.SGD(0.1))
    return model, (series(),)


MODELS = (regression, density, in_a_model, trajectory)


def assert_trained(model, data, net):
    """Fits for one epoch and sees all weights of the network move."""
    model.fit(*data, verbose=0)
    before = [np.array(weight) for weight in net.weights]
    assert before
    model.fit(*data, verbose=0)
    for weight, old in zip(net.weights, before, strict=True):
        assert np.any(np.array(weight) != old), weight.path
    tracked = {id(weight) for weight in model.trainable_weights}
    assert {id(weight) for weight in net.weights} <= tracked


# A layer shows each way; the other models, that they go the same way.
TRAINED = [(way, regression) for way in WAYS] + [
    ("lambda", density),
    ("lambda", in_a_model),
    ("lambda", trajectory),
    ("bound_method", density),
    ("callable_object", in_a_model),
]


@pytest.mark.parametrize("way, make", TRAINED)
def test_network_that_a_callable_holds_is_trained(way, make):
    keras.utils.set_random_seed(0)
    net = network()
    model, data = make(WAYS[way](net))
    assert_trained(model, data, net)


@pytest.mark.parametrize("make", (regression, density))
def test_network_in_a_lambda_is_trained_where_it_was_built_before(make):
    keras.utils.set_random_seed(0)
    net = network()
    net.build((None, 2))
    model, data = make(lambda t, y: net(y))
    assert_trained(model, data, net)


def test_network_in_a_lambda_is_trained_by_what_its_gradient_says():
    field = Field(rate=(0.4, 0.9))
    model = keras.Sequential(
        [
            keras.Input((2,), dtype="float64"),
            keras_node.ODELayer(
                lambda t, y: field(y), solver=rk4(), dtype="float64"
            ),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.1),
        loss=lambda y_true, y_pred: keras.ops.sum(y_pred),
    )
    model.fit(STATE, STATE, batch_size=3, verbose=0)
    rate = np.array([0.4, 0.9])
    _, by_rate = decay(rate, "checkpoint")
    # Keras's losses are float32.
    np.testing.assert_allclose(
        field.rate.value, rate - 0.1 * by_rate * np.sum(STATE, 0), rtol=1e-6
    )


def test_network_in_a_lambda_is_tracked_once():
    net = network()
    layer = keras_node.ODELayer(
        lambda t, y: net(y) + 0.0 * net(0.5 * y), solver=rk4()
    )
    layer(POINTS)
    paths = [id(weight) for weight in layer.trainable_weights]
    assert len(paths) == len(set(paths)) == 4


@pytest.mark.filterwarnings("ignore:The model does not have any trainable")
def test_training_flag_of_a_frozen_network_in_a_lambda_holds():
    net = network()
    net.trainable = False
    model, data = regression(lambda t, y: net(y))
    model.fit(*data, verbose=0)
    assert not model.trainable_weights


GLOBAL = network()
GLOBAL_VARIABLE = tf.Variable([0.4, 0.9], name="global_rate")


def global_network(t, y):
    return GLOBAL(y)


def global_variable(t, y):
    return -GLOBAL_VARIABLE * y


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("built", (True, False))
def test_global_network_gives_a_warning_that_names_its_variables(make, built):
    global GLOBAL
    GLOBAL = network()
    GLOBAL.build((None, 2))
    if not built:
        GLOBAL = network()
    with pytest.warns(UserWarning, match="(?s)kernel.*") as caught:
        model, data = make(global_network)
        model(data[0], training=False)
    messages = [str(warning.message) for warning in caught]
    # By TensorFlow's names, which those of Keras end with.
    assert any(
        text.count("kernel") + text.count("bias") == len(GLOBAL.weights)
        for text in messages
    )


@pytest.mark.parametrize("make", MODELS)
def test_global_variable_gives_a_warning_that_names_it(make):
    if make is density or make is in_a_model:
        pytest.skip("a bijector may track it")
    with pytest.warns(UserWarning, match="global_rate"):
        model, data = make(global_variable)
        # Nothing else is to be trained in a regression.
        model(data[0], training=False)


def test_function_warns_of_nothing():
    """`odeint` trains nobody: the caller's tape does."""
    net = GLOBAL
    net(POINTS)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(solve(global_network, POINTS, "auto"))
    assert all(
        gradient is not None
        for gradient in tape.gradient(value, net.trainable_weights)
    )


def test_variable_in_a_closure_is_tracked_or_warned_of():
    variable = tf.Variable([0.4, 0.9], name="closure_rate")
    layer = keras_node.ODELayer(lambda t, y: -variable * y, solver=rk4())
    with pytest.warns() as caught:
        layer(POINTS)
    tracked = any(weight is variable for weight in layer.trainable_variables)
    warned = any("closure_rate" in str(item.message) for item in caught)
    assert tracked or warned


class Penalised(keras.layers.Layer):
    """Decays, and adds the mean square of the state as a loss."""

    def call(self, y):
        self.add_loss(keras.ops.mean(y**2))
        return -y


def active_dense():
    """Returns a layer of decay with an activity regularizer."""
    layer = keras.layers.Dense(
        2, use_bias=False, activity_regularizer=keras.regularizers.L2(1.0)
    )
    layer.build((None, 2))
    layer.kernel.assign(-np.eye(2))
    return layer


def nested_dense():
    return keras.Sequential([active_dense()])


class Holder(keras.layers.Layer):
    """Holds a regularized layer, and calls it."""

    def __init__(self):
        super().__init__()
        self.inner = active_dense()

    def call(self, t, y):
        return self.inner(y)


# A layer shows each kind of field; the other models, that they do the same.
ADDING = [
    (regression, field, in_a_lambda)
    for field in (Penalised, active_dense, nested_dense, Holder)
    for in_a_lambda in (False, True)
] + [(make, active_dense, False) for make in MODELS[1:]]


@pytest.mark.parametrize("make, field, in_a_lambda", ADDING)
def test_loss_that_a_field_adds_is_refused_or_integrated(
    make, field, in_a_lambda
):
    net = field()
    dynamics = net
    if in_a_lambda:
        dynamics = (
            (lambda t, y: net(t, y))
            if isinstance(net, Holder)
            else (lambda t, y: net(y))
        )
    try:
        model, data = make(dynamics)
        model(data[0], training=True)
    except ValueError as error:
        text = str(error)
        assert "add_loss" in text or "activity" in text
        assert "regularizers" in text  # The remedy.
        return
    assert len(model.losses) == 1
    losses = [float(loss) for loss in model.losses]
    if make is regression:
        # The mean (or the sum over features, divided by the batch) of y^2,
        # from 0 to 1, along y = y0 exp(-t).
        mean = np.mean(POINTS**2) * (1.0 - np.exp(-2.0)) / 2.0
        factor = 1.0 if isinstance(net, Penalised) else 2.0
        # Quadrature by the solver's four steps.
        np.testing.assert_allclose(losses, [factor * mean], rtol=1e-3)
        model.fit(*data, verbose=0)


@pytest.mark.parametrize("make", MODELS)
def test_penalty_of_weights_is_added_once(make):
    net = keras.layers.Dense(
        2, kernel_regularizer=keras.regularizers.L2(0.5), use_bias=False
    )
    model, data = make(net)
    model(data[0], training=True)
    np.testing.assert_allclose(
        [float(loss) for loss in model.losses],
        [0.5 * np.sum(np.square(net.kernel.value))],
        rtol=1e-5,
    )


RATE = np.array([0.4, 0.9])


class WithBijector(keras.Model):
    """A model whose attribute is a `CNFBijector`."""

    def __init__(self, dynamics, adjoint):
        super().__init__(dtype="float64")
        self.bijector = keras_node.CNFBijector(
            dynamics, solver=rk4(), adjoint=adjoint
        )

    def call(self, x):
        return self.bijector.forward(x)


def stateless_owner(name, field, adjoint):
    """Returns a layer or model around a field, its input and its gradient.

    The last is that of the sum of outputs to the field's rate; NumPy.
    """
    _, by_rate = decay(RATE, adjoint)
    by_rate = by_rate * np.sum(STATE, 0)
    if name == "ODELayer":
        return face(name, field, adjoint)[1], float64(STATE), by_rate
    if name == "Sequential":
        layer = face("ODELayer", field, adjoint)[1]
        return keras.Sequential([layer]), float64(STATE), by_rate
    if name == "CNFBijector":
        return WithBijector(field, adjoint), float64(STATE), by_rate
    if name == "NormalizingFlow":
        model = normalizing_flow(field, adjoint)
        return model, float64(STATE), log_prob_gradient(STATE, RATE, adjoint)
    return latent_ode(field, adjoint), series(), None


@pytest.mark.parametrize("in_a_lambda", (False, True))
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize(
    "name",
    ("ODELayer", "Sequential", "CNFBijector", "NormalizingFlow", "LatentODE"),
)
def test_stateless_call_has_the_gradient_of_the_weights_that_it_is_given(
    name, adjoint, mode, in_a_lambda
):
    if in_a_lambda and (name, mode) != ("ODELayer", "function"):
        pytest.skip("one layer shows as much")
    if name in ("Sequential", "NormalizingFlow") and mode != "function":
        pytest.skip("their layers show as much")
    latent = name == "LatentODE"
    field = Field(
        rate=(LATENT, LATENT) if latent else RATE,
        dtype="float32" if latent else "float64",
    )
    dynamics = (lambda t, y: field(y)) if in_a_lambda else field
    owner, inputs, expected = stateless_owner(name, dynamics, adjoint)
    outputs = owner(inputs, training=False) if latent else owner(inputs)
    if latent:
        # With equal rates each mean is a multiple of exp(-rate t).
        times = np.array([0.0, 0.5, 1.0])[:, None]
        expected = -np.sum(times * outputs)
    trainable = [tf.identity(v.value) for v in owner.trainable_variables]
    rest = [tf.identity(v.value) for v in owner.non_trainable_variables]
    ours = [v is field.rate for v in owner.trainable_variables]
    assert any(ours), "the weight is not tracked"
    place = ours.index(True)
    # What is given counts, not what the variables hold.
    field.rate.assign([3.0, 3.0])

    def compute(trainable, rest, inputs):
        kwargs = {"training": False} if latent else {}
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            outputs, _ = owner.stateless_call(trainable, rest, inputs, **kwargs)
            value = tf.reduce_sum(outputs)
        return outputs, tape.gradient(value, trainable)[place]

    again, actual = MODES[mode](compute)(trainable, rest, inputs)
    np.testing.assert_allclose(again, outputs, rtol=1e-5)
    assert actual is not None
    if latent:  # Float32 and four steps of RK4.
        assert_close(tf.reduce_sum(actual), expected, rtol=1e-4)
    else:  # Models of Keras may work with float32.
        loose = name in ("NormalizingFlow", "Sequential")
        rtol = max(RTOL[adjoint], 1e-5) if loose else RTOL[adjoint]
        assert_close(actual, expected, rtol)


LATENT = 0.6


@pytest.mark.parametrize("mode", ("eager", "function"))
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_inner_step_of_meta_learning_has_the_gradient_of_both_steps(
    adjoint, mode
):
    """One step by hand, then the loss of the moved weights."""
    if adjoint != "direct":
        pytest.skip("second derivatives want the direct adjoint")
    field = Field(rate=RATE)
    layer, inputs, _ = stateless_owner("ODELayer", field, adjoint)
    layer(inputs)

    def compute(rate):
        rest = [v.value for v in layer.non_trainable_variables]
        with tf.GradientTape() as outer:
            outer.watch(rate)
            with tf.GradientTape() as inner:
                inner.watch(rate)
                value = tf.reduce_sum(
                    layer.stateless_call([rate], rest, inputs)[0] ** 2
                )
            moved = rate - 0.1 * inner.gradient(value, rate)
            value = tf.reduce_sum(
                layer.stateless_call([moved], rest, inputs)[0] ** 2
            )
        return value, outer.gradient(value, rate)

    def reference(rate):
        growth, slope = decay(rate, adjoint)
        squares = np.sum(STATE**2, 0)
        moved = rate - 0.1 * 2 * growth * slope * squares
        return np.sum(decay(moved, adjoint)[0] ** 2 * squares)

    value, actual = MODES[mode](compute)(float64(RATE))
    shift = 1e-5 * np.eye(2)
    numerical = [
        (reference(RATE + s) - reference(RATE - s)) / 2e-5 for s in shift
    ]
    np.testing.assert_allclose(value, reference(RATE))
    # Central differences with a shift of 1e-5.
    np.testing.assert_allclose(actual, numerical, rtol=1e-6)


def test_what_a_callable_holds_and_does_not_read_is_left_alone():
    class Trainer:
        """Holds a field, and much more."""

        def __init__(self):
            self.net = network()
            self.critic = keras.Sequential(
                [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
            )
            self.critic.build((None, 2))

        def field(self, t, y):
            return self.net(y)

    trainer = Trainer()
    layer = keras_node.ODELayer(trainer.field)
    layer(np.ones((3, 2), "float32"))
    assert len(layer.variables) == len(trainer.net.variables)


def test_a_model_may_hold_the_layer_that_calls_its_method():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = network()
            self.dropout = keras.layers.Dropout(0.5)
            self.ode = keras_node.ODELayer(self.field)

        def field(self, t, y):
            return self.net(y)

        def call(self, x, training=None):
            return self.ode(self.dropout(x, training=training))

    model = Model()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = np.ones((3, 2), "float32")
    model(x)
    before = [v.numpy() for v in model.net.trainable_variables]
    model.fit(x, 0 * x, verbose=0)
    assert len(model.trainable_variables) == len(before)
    for variable, value in zip(
        model.net.trainable_variables, before, strict=True
    ):
        assert np.any(variable.numpy() != value)

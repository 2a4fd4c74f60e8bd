"""Tests of `ODELayer`: times, shapes, masks, gradients and messages."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_node
from keras_node import adjoints, solvers


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


def random_normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def decay(t, y):
    return -y


def forced(t, y):
    """`dy/dt = cos(t)`, whose solution is `y0 + sin(t) - sin(t0)`."""
    t = tf.reshape(t, tf.concat([tf.shape(t), tf.ones_like(y.shape[1:])], 0))
    return tf.cos(t) * tf.ones_like(y)


class Counter:
    """Dynamics that counts how often it is run, and how often traced."""

    def __init__(self, dynamics):
        self.dynamics = dynamics
        self.evaluations = tf.Variable(0, trainable=False)
        self.traces = 0

    def __call__(self, t, y):
        self.traces += 1
        self.evaluations.assign_add(1)
        return self.dynamics(t, y)

    def count(self, function):
        """Returns how many evaluations `function` makes."""
        before = int(self.evaluations)
        function()
        return int(self.evaluations) - before


def tight(dynamics, **kwargs):
    solver = solvers.Tsit5(rtol=1e-6, atol=1e-8)
    return keras_node.ODELayer(dynamics, solver=solver, **kwargs)


def test_output_is_the_state_at_the_last_time():
    x = random_normal(3, 2)
    y = tight(decay, times=(0.0, 0.5, 2.0))(x)
    np.testing.assert_allclose(y, x * np.exp(-2.0), rtol=1e-5)


def test_sequences_hold_the_state_at_each_time():
    x = random_normal(3, 2)
    times = np.array([0.0, 0.5, 2.0])
    y = tight(decay, times=tuple(times), return_sequences=True)(x)
    expected = x[:, None] * np.exp(-times)[:, None]
    assert y.shape == (3, 3, 2)
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    np.testing.assert_array_equal(y[:, 0], x)


def test_decreasing_times_invert_increasing_ones():
    x = random_normal(3, 2)
    net = keras.layers.Dense(2, "tanh")
    y = tight(net, times=(0.0, 1.0))(x)
    np.testing.assert_allclose(
        tight(net, times=(1.0, 0.0))(y), x, rtol=1e-4, atol=1e-5
    )


TIMES = {
    "tuple": (1.0, 1.5, 3.0),
    "list": [1.0, 1.5, 3.0],
    "numpy": np.array([1.0, 1.5, 3.0]),
    "float32 tensor": tf.constant([1.0, 1.5, 3.0]),
    "float64 tensor": tf.constant([1.0, 1.5, 3.0], tf.float64),
    "variable": tf.Variable([1.0, 1.5, 3.0]),
    "integers": [1, 3],
    "decreasing": np.array([3.0, 1.0]),
}


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_times_of_the_call_override_those_of_the_constructor(times):
    x = random_normal(3, 2)
    y = tight(forced, return_sequences=True)(x, times=times)
    t = tf.cast(tf.convert_to_tensor(times), tf.float64).numpy()
    expected = x[:, None] + (np.sin(t) - np.sin(t[0]))[:, None]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_each_sample_has_its_own_times():
    x = random_normal(3, 2)
    grid = np.array([[0.0, 1, 2], [0.5, 0.6, 0.7], [-3, 5, 6]])
    layer = tight(forced, return_sequences=True)
    y = layer(x, times=grid)
    assert y.shape == (3, 3, 2)
    expected = x[:, None] + (np.sin(grid) - np.sin(grid[:, :1]))[..., None]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    last = tight(forced)(x, times=grid)
    np.testing.assert_array_equal(last, y[:, -1])


def test_times_of_each_sample_give_what_each_alone_would():
    # In float32 a product rounds differently in batches of one and of three.
    net = keras.layers.Dense(2, "tanh", dtype="float64")
    field = keras_node.ConcatTime(net, dtype="float64")
    layer = keras_node.ODELayer(field, dtype="float64")
    x = random_normal(3, 2).astype("float64")
    grid = np.array([[1.0, 0.5, -2.0], [0.5, 0.2, 0.1], [0.0, -7.0, -9.0]])
    y = layer(x, times=grid)
    for i in range(3):
        alone = layer(x[i : i + 1], times=grid[i : i + 1])
        np.testing.assert_allclose(y[i : i + 1], alone, rtol=1e-10)
        shared = layer(x[i : i + 1], times=grid[i])
        np.testing.assert_allclose(y[i : i + 1], shared, rtol=1e-5, atol=1e-6)


def test_times_keep_the_precision_of_float64():
    # 1e8 and 1e8 + 0.5 are the same float32.
    layer = keras_node.ODELayer(lambda t, y: tf.ones_like(y))
    for times in (
        [1e8, 1e8 + 0.5],
        np.array([1e8, 1e8 + 0.5]),
        tf.constant([1e8, 1e8 + 0.5], tf.float64),
        np.array([[1e8, 1e8 + 0.5]] * 2),
    ):
        y = layer(np.zeros((2, 1), "float32"), times=times)
        np.testing.assert_allclose(y, np.full((2, 1), 0.5), rtol=1e-5)


def test_more_times_in_a_grid_cost_no_evaluations():
    counter = Counter(lambda t, y: tf.sin(3 * y))
    layer = keras_node.ODELayer(counter)
    x = random_normal(4, 2)
    few = counter.count(lambda: layer(x, times=[0.0, 2.0]))
    many = counter.count(lambda: layer(x, times=np.linspace(0.0, 2.0, 50)))
    assert few >= 14
    assert many == few


def test_more_different_times_in_a_batch_cost_no_evaluations():
    counter = Counter(lambda t, y: tf.sin(3 * y))
    layer = keras_node.ODELayer(counter)
    x = random_normal(6, 2)
    ends = np.linspace(1.0, 2.0, 6)
    grid = np.stack([0 * ends, ends], axis=1)
    together = counter.count(lambda: layer(x, times=grid))
    alone = [
        counter.count(lambda i=i: layer(x[i : i + 1], times=grid[i : i + 1]))
        for i in range(6)
    ]
    assert together <= max(alone)


def test_times_may_be_an_input_of_a_functional_model():
    y0, times = keras.Input((2,)), keras.Input((3,))
    layer = tight(forced, return_sequences=True)
    outputs = layer(y0, times=times)
    assert outputs.shape == (None, 3, 2)
    model = keras.Model([y0, times], outputs)
    x = random_normal(2, 2)
    grid = np.array([[0.0, 1, 2], [0.5, 0.6, 0.7]], "float32")
    y = model.predict([x, grid], verbose=0)
    expected = x[:, None] + (np.sin(grid) - np.sin(grid[:, :1]))[..., None]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_gradient_reaches_the_times_of_the_call():
    x = tf.constant(random_normal(2, 1))
    shared = tf.constant([0.5, 2.0])
    grid = tf.constant([[0.5, 2.0], [1.0, 3.0]])
    layer = tight(forced)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([shared, grid])
        of_shared = tf.reduce_sum(layer(x, times=shared))
        of_grid = tf.reduce_sum(layer(x, times=grid))
    np.testing.assert_allclose(
        tape.gradient(of_shared, shared),
        [-2 * np.cos(0.5), 2 * np.cos(2.0)],
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        tape.gradient(of_grid, grid),
        np.cos(grid) * [-1.0, 1.0],
        rtol=1e-5,
    )


def test_symbolic_call_runs_no_solve():
    counter = Counter(decay)
    layer = keras_node.ODELayer(counter, return_sequences=True)
    outputs = layer(keras.Input((2,)))
    model = keras.Model(layer.input, outputs)
    assert outputs.shape == (None, 2, 2)
    assert int(counter.evaluations) == 0
    # One trace checks the derivative; a solve would have one for each stage.
    assert counter.traces == 1
    assert model.compute_output_shape((5, 2)) == (5, 2, 2)
    assert counter.traces == 1


@pytest.mark.parametrize("times", [(0.0, 1, 2, 3), [0.0, 1, 2, 3]])
def test_symbolic_call_knows_the_number_of_the_times_of_the_call(times):
    layer = keras_node.ODELayer(decay, return_sequences=True)
    assert layer(keras.Input((2,)), times=times).shape == (None, 4, 2)
    array = np.array(times)
    assert layer(keras.Input((2,)), times=array).shape == (None, 4, 2)


SHAPES = [(None, 2), (3, 2), (None, None, 2), (2, 4, 4, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_shape_is_that_of_the_input_and_of_the_times(shape):
    layer = keras_node.ODELayer(decay, (0.0, 1.0, 2.0))
    assert layer.compute_output_shape(shape) == shape
    layer = keras_node.ODELayer(decay, (0.0, 1.0, 2.0), return_sequences=True)
    expected = (shape[0], 3, *shape[1:])
    assert layer.compute_output_shape(shape) == expected
    outputs = layer(keras.Input(batch_shape=shape))
    assert outputs.shape == expected


def test_summary_lists_the_layer_and_the_weights_of_its_dynamics():
    net = keras.layers.Dense(2)
    model = keras.Sequential(
        [keras.Input((2,)), keras_node.ODELayer(net, name="flow")]
    )
    lines = []
    model.summary(print_fn=lines.append)
    text = "\n".join(lines)
    assert "flow (ODELayer)" in text
    assert "(None, 2)" in text
    assert model.count_params() == 6


MASKED = np.array([[[1.0, 2.0], [0, 0]], [[1, 1], [3, 3]]], "float32")


def test_mask_passes_through():
    x = keras.layers.Masking()(MASKED)
    y = keras_node.ODELayer(decay)(x)
    np.testing.assert_array_equal(y._keras_mask, [[True, False], [True, True]])


@pytest.mark.parametrize("times", [None, (0.0, 1.0), (0.0, 1, 2, 3)], ids=str)
def test_mask_is_repeated_for_each_time_of_a_sequence(times):
    x = keras.layers.Masking()(MASKED)
    layer = keras_node.ODELayer(decay, (0.0, 1, 2), return_sequences=True)
    y = layer(x, times=times)
    mask = y._keras_mask
    expected = np.array([[True, False], [True, True]])[:, None]
    assert tuple(mask.shape) == tuple(y.shape[:-1])
    np.testing.assert_array_equal(mask, np.broadcast_to(expected, mask.shape))


def test_mask_reaches_the_layer_after_the_ode():
    tokens = np.array([[3, 1, 0, 0], [2, 0, 0, 0]])
    net = keras.layers.Dense(2)
    model = keras.Sequential(
        [
            keras.layers.Embedding(4, 2, mask_zero=True),
            keras_node.ODELayer(net, solver="rk4"),
            keras.layers.GlobalAveragePooling1D(),
        ]
    )
    short = [model(tokens[:1, :2]), model(tokens[1:, :1])]
    np.testing.assert_allclose(
        model(tokens), np.concatenate(short), rtol=1e-5, atol=1e-6
    )


def gradients_of(forward, layer, x):
    """Gradients of the same loss, by whatever calls the layer."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(forward(x) ** 2)
    return tape.gradient(loss, [x, *layer.trainable_weights])


@pytest.mark.parametrize("adjoint", ["checkpoint", "backsolve"])
def test_gradient_taken_outside_of_a_function_is_right(adjoint):
    layer = tight(keras.layers.Dense(2), adjoint=adjoint)
    x = tf.constant(random_normal(3, 2))
    layer.build(x.shape)
    kernel, bias = (w.value for w in layer.trainable_weights)

    def exact(y):
        # The flow of the linear field, as an exponential of one matrix more.
        matrix = tf.pad(tf.concat([kernel, bias[None]], 0), [[0, 0], [0, 1]])
        y = tf.pad(y, [[0, 0], [0, 1]], constant_values=1.0)
        return y @ tf.linalg.expm(matrix)[:, :2]

    with tf.GradientTape() as tape:
        tape.watch([x, kernel, bias])
        loss = tf.reduce_sum(exact(x) ** 2)
    expected = tape.gradient(loss, [x, kernel, bias])
    inner = tf.function(layer)
    outer = tf.function(lambda x: gradients_of(inner, layer, x))
    for gradients in (gradients_of(inner, layer, x), outer(x)):
        for gradient, value in zip(gradients, expected, strict=True):
            # Backsolve integrates the gradient with a tolerance of 1e-6.
            np.testing.assert_allclose(gradient, value, rtol=1e-4, atol=1e-4)


def test_one_layer_may_be_called_twice_with_other_shapes():
    layer = tight(decay)
    np.testing.assert_allclose(
        layer(np.ones((2, 3), "float32")), np.full((2, 3), np.exp(-1)), 1e-5
    )
    np.testing.assert_allclose(
        layer(np.ones((4, 3), "float32")), np.full((4, 3), np.exp(-1)), 1e-5
    )


def test_batch_size_may_be_known_only_at_run_time():
    layer = tight(decay, return_sequences=True)
    layer.build((None, 2))
    function = tf.function(
        layer, input_signature=[tf.TensorSpec((None, 2), tf.float32)]
    )
    for batch in (1, 5):
        y = function(tf.ones((batch, 2)))
        np.testing.assert_allclose(
            y[:, 1], np.full((batch, 2), np.exp(-1)), rtol=1e-5
        )


def test_arguments_are_kept_as_attributes():
    net = keras.layers.Dense(2)
    solver = solvers.RK4(step_size=0.5)
    adjoint = adjoints.BacksolveAdjoint()
    layer = keras_node.ODELayer(net, [0, 1, 2], solver, adjoint, True)
    assert layer.dynamics is net
    assert layer.times == (0.0, 1.0, 2.0)
    assert layer.solver is solver
    assert layer.adjoint is adjoint
    assert layer.return_sequences is True


BAD_TIMES = [
    (0.0,),
    (),
    0.0,
    None,
    (0.0, 0.0),
    (0.0, 2.0, 1.0),
    (0.0, float("nan")),
    (0.0, float("inf")),
    ("a", "b"),
    ((0.0, 1.0), (0.0, 2.0)),
]


@pytest.mark.parametrize("times", BAD_TIMES, ids=str)
def test_bad_times_of_the_constructor_are_refused(times):
    with pytest.raises(ValueError, match="Received: times=") as error:
        keras_node.ODELayer(decay, times=times)
    assert "strictly increasing or strictly decreasing" in str(error.value)


@pytest.mark.parametrize("kind", [tf.Variable, keras.Variable])
def test_variable_times_of_the_constructor_are_refused(kind):
    with pytest.raises(ValueError, match="are constants.*Received: times="):
        keras_node.ODELayer(decay, times=(0.0, kind(1.0)))


BAD_CALL_TIMES = {
    "list": [0.0, 2.0, 1.0],
    "scalar": 1.0,
    "one": [0.0],
    "numpy": np.array([0.0, 2.0, 1.0]),
    "tensor": tf.constant([0.0, 0.0]),
    "grid": np.array([[0.0, 1.0], [2.0, 2.0]]),
    "grid of another batch": np.array([[0.0, 1.0]] * 5),
    "rank 3": np.zeros((2, 2, 2)),
}


@pytest.mark.parametrize("times", BAD_CALL_TIMES.values(), ids=BAD_CALL_TIMES)
def test_bad_times_of_the_call_are_refused(times):
    layer = keras_node.ODELayer(decay)
    with pytest.raises(ValueError, match="Received"):
        layer(np.ones((2, 1), "float32"), times=times)


def test_bad_times_are_refused_when_a_function_runs():
    layer = keras_node.ODELayer(decay)
    layer.build((2, 1))
    function = tf.function(lambda times: layer(tf.ones((2, 1)), times=times))
    function(tf.constant([0.0, 1.0, 2.0]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="`times` must"):
        function(tf.constant([0.0, 2.0, 1.0]))


@pytest.mark.parametrize(
    ("kwargs", "exception", "says"),
    [
        ({"solver": "dopri7"}, ValueError, "dopri5"),
        ({"solver": solvers.Tsit5}, TypeError, r"Tsit5\(\)"),
        ({"solver": 5}, TypeError, "tsit5"),
        ({"adjoint": "seminorm"}, ValueError, "backsolve"),
        ({"adjoint": 5}, TypeError, "checkpoint"),
        ({"dynamics": None}, TypeError, r"f\(t, y\)"),
        ({"dynamics": "tanh"}, TypeError, r"f\(t, y\)"),
        ({"dynamics": keras.layers.Dense}, TypeError, "dynamics"),
    ],
    ids=str,
)
def test_bad_argument_gets_a_message_that_helps(kwargs, exception, says):
    with pytest.raises(exception, match="Received: ") as error:
        keras_node.ODELayer(**{"dynamics": decay, **kwargs})
    error.match(says)


def test_adjoint_that_the_solver_does_not_allow_is_refused():
    layer = keras_node.ODELayer(decay, solver="bdf", adjoint="checkpoint")
    with pytest.raises(ValueError, match="Received: solver=BDF") as error:
        layer(np.ones((2, 1), "float32"))
    assert "backsolve" in str(error.value)


def test_failed_solve_names_the_argument_to_change():
    solver = solvers.Tsit5(max_num_steps=2, rtol=1e-6)
    layer = keras_node.ODELayer(decay, (0.0, 50.0), solver=solver)
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_num_steps"):
        layer(np.ones((2, 1), "float32"))


@pytest.mark.parametrize("adjoint", ["checkpoint", "backsolve"])
def test_a_layer_within_the_dynamics_of_another_trains(adjoint):
    inner = keras_node.ODELayer(keras.layers.Dense(2, "tanh"), solver="rk4")
    outer = keras_node.ODELayer(inner, solver=solvers.RK4(0.1), adjoint=adjoint)
    model = keras.Sequential([keras.Input((2,)), outer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = random_normal(8, 2)

    def gradient(adjoint):
        outer.adjoint = adjoints.get(adjoint)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x) ** 2)
        return tape.gradient(loss, inner.trainable_variables[0].value)

    exact = gradient("direct")
    tolerance = 1e-2 if adjoint == "backsolve" else 1e-5  # The steps' error.
    np.testing.assert_allclose(gradient(adjoint), exact, rtol=tolerance)
    before = model.get_weights()[0]
    logs = model.fit(x, x, verbose=0).history
    assert np.any(model.get_weights()[0] != before)
    # Ten steps of RK4; what each evaluation solves within is not counted.
    assert logs[f"{outer.name}_nfe"] == [40.0]

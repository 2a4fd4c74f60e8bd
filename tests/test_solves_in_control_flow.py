"""Tests of solves inside of loops and branches, with gradients outside."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import linalg
from support.gates import GATES
from support.gradients import ADJOINTS, MODES, assert_close, float64
from support.modes import RTOL, STATE, STEP, Field, decay, face, rk4, solve

import keras_node

RATE = np.array([0.4, 0.9])
COUNT = 2


def while_loop(solved, y):
    """Solves `COUNT` times over, one after the other."""
    return tf.while_loop(
        lambda n, y: n < COUNT,
        lambda n, y: (n + 1, solved(y)),
        (0, y),
        maximum_iterations=COUNT,
    )[1]


def autograph_loop(solved, y):
    @tf.autograph.experimental.do_not_convert
    def step(y):
        return solved(y)

    def loop(y):
        for _ in tf.range(COUNT):
            y = step(y)
        return y

    return tf.autograph.to_graph(loop)(y)


def scan(solved, y):
    return tf.scan(lambda y, _: solved(y), tf.range(COUNT), y)[-1]


def foldl(solved, y):
    return tf.foldl(lambda y, _: solved(y), tf.range(COUNT), y)


def map_fn(solved, y):
    """Solves for one sample at a time, then for all once more."""
    return solved(tf.map_fn(lambda row: solved(row[None])[0], y))


def cond(solved, y):
    yes = tf.reduce_sum(y) > 0.0
    y = tf.cond(yes, lambda: solved(y), lambda: 0.0 * y)
    return tf.cond(yes, lambda: 1.0 * solved(y), lambda: y)


def switch_case(solved, y):
    index = tf.cast(tf.reduce_sum(y) > 0.0, tf.int32)
    for _ in range(COUNT):
        y = tf.switch_case(
            index, {0: lambda y=y: 0.0 * y, 1: lambda y=y: solved(y)}
        )
    return y


def nested_function(solved, y):
    inner = tf.function(solved, autograph=False)
    return inner(inner(y))


CONTROL = (
    while_loop,
    autograph_loop,
    scan,
    foldl,
    map_fn,
    cond,
    switch_case,
    nested_function,
)


def expected(adjoint, rate=RATE):
    """Returns gradients of `sum(y(COUNT))` to `y(0)` and the rate, NumPy."""
    growth, by_rate = decay(rate, adjoint)
    by_rate = COUNT * growth ** (COUNT - 1) * by_rate * np.sum(STATE, 0)
    return np.broadcast_to(growth**COUNT, STATE.shape), by_rate


def parameter(kind):
    """Returns dynamics and their rate, which a tape may watch."""
    if kind == "keras":
        field = Field(rate=RATE)
        return field, field.rate.value
    rate = tf.Variable(RATE) if kind == "tf" else float64(RATE)
    return (lambda t, y: -rate * y), rate


def gradients_through(control, dynamics, rate, adjoint, mode, name="odeint"):
    """Returns the gradients of what the control flow makes of the solve."""
    solved, layer = face(name, dynamics, adjoint)
    if layer is not None:
        solved(float64(STATE))

    def compute(state):
        with tf.GradientTape() as tape:
            tape.watch([state, rate])
            value = tf.reduce_sum(control(solved, state))
        return tape.gradient(value, (state, rate))

    return MODES[mode](compute)(float64(STATE))


OTHERS = ("tf", "constant")
CASES = (
    [(control, "keras", "function") for control in CONTROL]
    + [
        (control, kind, "function")
        for control in (while_loop, map_fn, cond)
        for kind in OTHERS
    ]
    # Python runs the loop, over one and the same solve.
    + [(control, "keras", "eager") for control in (while_loop, map_fn, cond)]
    + [(while_loop, kind, "xla") for kind in ("keras", *OTHERS)]
    + [(cond, "keras", "xla")]
)


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("control, kind, mode", CASES)
def test_solve_in_control_flow_has_its_gradients(control, kind, adjoint, mode):
    if adjoint == "direct" and (control, mode) == (cond, "xla"):
        pytest.skip(
            "XLA has no FakeParam for the steps of the branch not taken."
        )
    actual = gradients_through(control, *parameter(kind), adjoint, mode)
    assert_close(actual, expected(adjoint), RTOL[adjoint])


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("name", ("ODELayer", "CNFBijector"))
@pytest.mark.parametrize(
    "control, kind",
    [(control, "keras") for control in (while_loop, map_fn, cond)]
    + [(while_loop, kind) for kind in OTHERS],
)
# A variable of TensorFlow that nobody tracks may be warned of.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_layer_in_control_flow_has_its_gradients(control, name, kind, adjoint):
    if kind == "tf":
        variable = tf.Variable(RATE)
        dynamics, rate = Owner(variable), variable
    else:
        dynamics, rate = parameter(kind)
    actual = gradients_through(
        control, dynamics, rate, adjoint, "function", name
    )
    assert_close(actual, expected(adjoint), RTOL[adjoint])


class Owner(keras.layers.Layer):
    """A field with a `tf.Variable` of its own."""

    def __init__(self, variable):
        super().__init__(dtype="float64")
        self.variable = variable

    def call(self, y):
        return -self.variable * y


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("gate", ("plain", "silu"))
@pytest.mark.parametrize("control", (while_loop, map_fn, cond))
def test_tensor_of_the_graph_has_its_gradient_through_the_loop(
    control, gate, adjoint
):
    gate, value, slope = GATES[gate]

    @tf.function(autograph=False)
    def compute(state, rate):
        with tf.GradientTape() as tape:
            tape.watch([state, rate])
            captured = 1.0 * rate

            def solved(y):
                return solve(lambda t, y: -gate(captured) * y, y, adjoint)

            total = tf.reduce_sum(control(solved, state))
        return tape.gradient(total, (state, rate))

    actual = compute(float64(STATE), float64(RATE))
    by_state, by_rate = expected(adjoint, value(RATE))
    assert_close(actual, (by_state, slope(RATE) * by_rate), RTOL[adjoint])


@pytest.mark.parametrize("mode", ("eager", "function"))
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_gradient_that_is_taken_inside_of_the_loop_is_right(adjoint, mode):
    dynamics, rate = parameter("keras")

    def step(n, total):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(solve(dynamics, float64(STATE), adjoint))
        return n + 1, total + tape.gradient(value, rate)

    def compute():
        return tf.while_loop(
            lambda n, total: n < COUNT, step, (0, tf.zeros(2, tf.float64))
        )[1]

    _, by_rate = decay(RATE, adjoint)
    assert_close(
        MODES[mode](compute)(),
        COUNT * by_rate * np.sum(STATE, 0),
        RTOL[adjoint],
    )


class Cell(keras.layers.Layer):
    """An ODE-RNN: the state decays, then an observation is added."""

    state_size = 2
    output_size = 2

    def __init__(self, dynamics, adjoint):
        super().__init__(dtype="float64")
        self.ode = keras_node.ODELayer(
            dynamics,
            solver=rk4(),
            adjoint=adjoint,
            dtype="float64",
            name="ode",
        )

    def build(self, input_shape):
        self.ode.build(input_shape)
        self.built = True

    def call(self, inputs, states):
        y = self.ode(states[0]) + inputs
        return y, [y]


STEPS = 3
INPUTS = np.random.default_rng(0).normal(size=(3, STEPS, 2))


def recurrent_end(adjoint):
    """Returns the last state and its derivative by the rate, NumPy."""
    growth, by_rate = decay(RATE, adjoint)
    y = dy = np.zeros((3, 2))
    for n in range(STEPS):
        dy = growth * dy + by_rate * y
        y = growth * y + INPUTS[:, n]
    return y, dy


@pytest.mark.filterwarnings("ignore:The dynamics read variables")
@pytest.mark.parametrize("unroll", (False, True))
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("kind", ("keras", "tf", "constant"))
def test_recurrent_layer_around_a_solve_has_its_gradient(
    kind, adjoint, mode, unroll
):
    if unroll and (kind, mode) != ("keras", "function"):
        pytest.skip("Python runs the loop")
    if mode != "function" and kind != "keras":
        pytest.skip("a graph shows as much")
    if kind == "tf":
        rate = tf.Variable(RATE)
        dynamics = Owner(rate)
    else:
        dynamics, rate = parameter(kind)
    layer = keras.layers.RNN(
        Cell(dynamics, adjoint), unroll=unroll, dtype="float64"
    )
    layer(float64(INPUTS))

    def compute(inputs):
        with tf.GradientTape() as tape:
            tape.watch(rate)
            value = tf.reduce_sum(layer(inputs))
        return tape.gradient(value, rate)

    actual = MODES[mode](compute)(float64(INPUTS))
    _, by_rate = recurrent_end(adjoint)
    assert_close(actual, np.sum(by_rate, 0), RTOL[adjoint])


@pytest.mark.parametrize("jit_compile", (False, True))
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_recurrent_model_is_trained_by_its_gradient(adjoint, jit_compile):
    field = Field(rate=RATE)
    model = keras.Sequential(
        [
            keras.Input((STEPS, 2), dtype="float64"),
            keras.layers.RNN(Cell(field, adjoint), dtype="float64"),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.1),
        loss=lambda y_true, y_pred: keras.ops.sum(y_pred),
        jit_compile=jit_compile,
    )
    history = model.fit(
        INPUTS, np.zeros((3, 2)), batch_size=3, epochs=1, verbose=0
    ).history
    _, by_rate = recurrent_end(adjoint)
    # Keras's losses are float32.
    np.testing.assert_allclose(
        field.rate.value,
        RATE - 0.1 * np.sum(by_rate, 0),
        rtol=max(RTOL[adjoint], 1e-6),
    )
    # Four steps of four stages, in a loop as elsewhere. The gradient of a loop
    # may update no variable: TensorFlow counts no backward evaluations there.
    assert history["ode_nfe"][0] >= 4 / STEP
    assert history["ode_nfe_backward"][0] == 0


@pytest.mark.parametrize("control", (while_loop, scan, map_fn, cond))
def test_evaluations_in_control_flow_are_counted(control):
    layer = keras_node.ODELayer(
        Field(rate=RATE), solver=rk4(), dtype="float64", name="ode"
    )
    layer(float64(STATE))
    for metric in layer.metrics:
        metric.reset_state()

    @tf.function(autograph=False)
    def compute(state):
        return control(layer, state)

    compute(float64(STATE))
    counts = {metric.name: float(metric.result()) for metric in layer.metrics}
    assert counts["ode_nfe"] >= 4 / STEP


def adaptive(dynamics, adjoint):
    """Returns a map from `y(0)` to `y(1)` by an adaptive solver."""

    def solved(y):
        return keras_node.odeint(
            dynamics, y, (0.0, 1.0), adjoint=adjoint
        ).states[-1]

    return solved


@pytest.mark.parametrize("mode", ("eager", "function"))
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize(
    "name", ("adaptive", "odeint", "ODELayer", "CNFBijector")
)
def test_vectorized_map_of_a_solve_works_or_is_refused(name, adjoint, mode):
    """Either the right answer, or one sentence that names the function."""
    dynamics, _ = parameter("keras")
    if name == "adaptive":
        solved = adaptive(dynamics, adjoint)
    else:
        solved, _ = face(name, dynamics, adjoint)
    solved(float64(STATE))

    def compute(state):
        return tf.vectorized_map(lambda row: solved(row[None])[0], state)

    try:
        actual = MODES[mode](compute)(float64(STATE))
    except (ValueError, NotImplementedError) as error:
        assert "vectorized_map" in str(error)
        assert "TensorList" not in str(error)
        return
    # The adaptive solver has its default tolerance of 1e-3, RK4 four steps.
    np.testing.assert_allclose(
        actual,
        np.exp(-RATE) * STATE,
        rtol=1e-2 if name == "adaptive" else 1e-4,
    )


ROTATION = np.array([[0.3, -0.8], [0.5, 0.1]])


@pytest.mark.parametrize("mode", ("eager", "function"))
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("transpose", (False, True))
def test_jacobian_by_a_loop_is_right(transpose, adjoint, mode):
    matrix = float64(ROTATION)

    def compute(y):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(y)
            states = keras_node.odeint(
                lambda t, y: y @ matrix,
                y,
                (0.0, 0.5, 1.0),
                solver=rk4(),
                adjoint=adjoint,
            ).states
            if transpose:
                states = tf.transpose(states, [1, 0, 2])
        return tape.jacobian(states, y, experimental_use_pfor=False)

    actual = MODES[mode](compute)(float64(STATE[:1]))
    flow = np.stack([linalg.expm(t * ROTATION).T for t in (0.0, 0.5, 1.0)])
    flow = flow[:, None, :, None, :]
    if transpose:
        flow = flow.swapaxes(0, 1)
    # Four steps of RK4 are within 1e-4 of the continuous solution.
    assert_close(actual, flow, rtol=1e-4)


@pytest.mark.parametrize("mode", ("eager", "function"))
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("name", ("odeint", "ODELayer", "CNFBijector"))
def test_batch_jacobian_of_a_solve_is_right(name, adjoint, mode):
    dynamics, _ = parameter("keras")
    solved, _ = face(name, dynamics, adjoint)
    solved(float64(STATE))

    def compute(y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            end = solved(y)
        return tape.batch_jacobian(end, y)

    jacobian = MODES[mode](compute)(float64(STATE))
    expected = np.exp(-RATE) * np.eye(STATE.shape[1])
    np.testing.assert_allclose(
        jacobian, np.broadcast_to(expected, jacobian.shape), atol=1e-4
    )


@pytest.mark.parametrize("mode", ("eager", "function"))
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_gradients_of_each_sample_are_those_of_it_alone(adjoint, mode):
    layer = keras_node.ODELayer(
        keras.layers.Dense(2, "tanh", dtype="float64"),
        solver=rk4(),
        adjoint=adjoint,
        regularizers=["kinetic_energy"],
        dtype="float64",
    )
    state = float64(STATE)
    layer(state)

    def gradient(row):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(row[None]) ** 2)
        return tape.gradient(loss, layer.trainable_variables)

    def compute(state):
        return tf.vectorized_map(gradient, state)

    found = MODES[mode](compute)(state)
    for i in range(STATE.shape[0]):
        for gradients, expected in zip(found, gradient(state[i]), strict=True):
            np.testing.assert_allclose(gradients[i], expected, rtol=1e-9)


@pytest.mark.parametrize("mode", ("eager", "function"))
@pytest.mark.parametrize("dtype", ("bfloat16", "float16", "float32"))
def test_times_of_few_digits_are_monotonic(dtype, mode):
    def compute(times):
        return keras_node.odeint(
            lambda t, y: -y, float64([1.0]), times, solver=rk4()
        ).states

    actual = MODES[mode](compute)(tf.constant([0.0, 0.5, 1.0], dtype))
    # Four steps of RK4.
    np.testing.assert_allclose(
        actual[:, 0], np.exp([0.0, -0.5, -1.0]), rtol=1e-4
    )

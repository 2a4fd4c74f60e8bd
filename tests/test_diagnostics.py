"""Reports: of gradients and drift, of work and precision, of a solve."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import linalg

import keras_node
from keras_node import diagnostics, solvers
from keras_node.adjoints import BacksolveAdjoint
from keras_node.diagnostics import solver_measurement

X = np.random.default_rng(0).normal(size=(4, 2))
TIGHT = solvers.Tsit5(rtol=1e-5, atol=1e-8, max_num_steps=50)
# Its steps, and those of its gradient, are cheap.
RK4 = solvers.RK4(step_size=0.5)


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


@pytest.fixture
def eagerly():
    """Runs at once what takes longer to trace than to run."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def network(dtype="float64"):
    return keras.Sequential(
        [
            keras.layers.Dense(4, "tanh", dtype=dtype),
            keras.layers.Dense(2, dtype=dtype),
        ]
    )


def layer_of(dynamics, **kwargs):
    return keras_node.ODELayer(dynamics, dtype="float64", **kwargs)


def linear(matrix):
    """Dynamics `dy/dt = A y`, of rows."""
    return lambda t, y: y @ tf.constant(np.transpose(matrix), y.dtype)


def normal(dtype="float32"):
    return tfp.distributions.MultivariateNormalDiag(tf.zeros(2, dtype))


class Relaxation(keras.layers.Layer):
    """`dy/dt = -k (y - sin t)`, whose solution forgets where it began."""

    def __init__(self, k):
        super().__init__(dtype="float64")
        start = keras.initializers.Constant(k)
        self.k = self.add_weight(shape=(), initializer=start, name="k")

    def call(self, t, y):
        return -self.k * (y - keras.ops.sin(t))


def total(layer, x):
    return tf.reduce_sum(layer(x))


# Gradients.


def test_all_gradients_agree_on_a_mild_problem():
    report = diagnostics.check_gradients(layer_of(network(), solver=TIGHT), X)
    assert report.differences["checkpoint"].overall < 1e-12
    assert report.differences["backsolve"].overall < 1e-5
    assert report.drifts[0].relative < 1e-5
    assert report.verdict == "The gradients agree: any adjoint will do."


def test_gradient_of_direct_is_that_of_finite_differences():
    layer = layer_of(network(), solver=RK4)

    def loss(layer, x):
        return tf.reduce_sum(tf.sin(layer(x)))

    report = diagnostics.check_gradients(layer, X, loss)
    assert len(report.gradient) == 5
    step = 1e-5
    for name, x in (("input", tf.Variable(X)), *layer_weights(layer)):
        first = np.zeros(x.shape)
        first.flat[0] = step
        values = []
        for sign in (1, -1):
            x.assign_add(sign * first)
            values.append(loss(layer, x if name == "input" else X))
            x.assign_sub(sign * first)
        slope = (values[0] - values[1]) / (2 * step)
        np.testing.assert_allclose(
            report.gradient[name].flat[0], slope, rtol=1e-6
        )


def layer_weights(layer):
    return [(weight.path, weight.value) for weight in layer.weights]


def test_contraction_makes_backsolve_wrong_and_the_report_says_so():
    solver = solvers.Tsit5(max_num_steps=200)
    layer = layer_of(Relaxation(40.0), solver=solver)
    report = diagnostics.check_gradients(layer, np.array([[0.3]]), total)
    # y(1) = (k^2 sin 1 - k cos 1) / (k^2 + 1), the start being forgotten.
    k, sine, cosine = 40.0, np.sin(1.0), np.cos(1.0)
    slope = (2 * k * sine + (k**2 - 1) * cosine) / (k**2 + 1) ** 2
    # The error of steps of `rtol=1e-3`, in what is small beside the state.
    np.testing.assert_allclose(
        report.gradient[layer.dynamics.k.path], slope, rtol=0.1
    )
    # An error of 1e-3 at most grows by exp(40).
    drift = report.drifts[0].absolute
    assert 1e-8 * np.exp(40.0) < drift < 1e-2 * np.exp(40.0)
    assert report.differences["checkpoint"].overall < 1e-12
    backsolve = report.differences["backsolve"]
    assert backsolve.overall > 0.1
    assert backsolve.worst_name in (layer.dynamics.k.path, "input")
    assert report.verdict.startswith("Backsolve drifts")
    assert backsolve.worst_name in str(report)


@pytest.mark.parametrize("times", [(0.0, 1.0), (0.0, 0.5, 1.0)], ids=len)
@pytest.mark.parametrize("per_sample_steps", [False, True])
def test_drift_is_that_of_the_steps_forwards_and_back(times, per_sample_steps):
    solver = solvers.RK4(step_size=0.25, per_sample_steps=per_sample_steps)
    rate = 3.0
    layer = layer_of(lambda t, y: -rate * y, times=times, solver=solver)
    [drift] = diagnostics.check_gradients(layer, np.array([[2.0]])).drifts

    def factor(z):
        return 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24

    # The state starts anew at each of the times; the first interval counts.
    count = 4 // (len(times) - 1)
    both_ways = (factor(0.25 * rate) * factor(-0.25 * rate)) ** count
    expected = abs(both_ways - 1.0)
    assert drift.layer == layer.name
    np.testing.assert_allclose(drift.relative, expected, rtol=1e-10)
    np.testing.assert_allclose(drift.absolute, 2 * expected, rtol=1e-10)


def test_backward_solve_that_fails_is_reported():
    def dynamics(t, y):
        gap = y - tf.sin(t)
        return -40.0 * gap - gap**3

    solver = solvers.Tsit5(rtol=1e-2, max_num_steps=25)
    layer = keras_node.ODELayer(dynamics, solver=solver)
    report = diagnostics.check_gradients(layer, np.ones((1, 1), "float32"))
    assert np.isnan(report.differences["backsolve"].overall)
    assert report.drifts[0].absolute == np.inf
    assert report.verdict.startswith("Backsolve drifts, until it fails")
    assert re.search(r"backsolve +failed +failed", str(report))


def test_own_backsolve_of_a_layer_is_the_one_that_is_checked():
    # Forwards Euler's steps, and back almost exact ones.
    layer = layer_of(
        lambda t, y: -y,
        solver=solvers.Euler(step_size=0.5),
        adjoint=BacksolveAdjoint(solvers.RK4(step_size=0.01)),
    )
    [drift] = diagnostics.check_gradients(layer, np.ones((1, 1))).drifts
    np.testing.assert_allclose(drift.absolute, 1.0 - 0.5**2 * np.e, rtol=1e-6)


def test_solver_of_tfp_is_reported_by_its_drift_alone():
    layer = layer_of(lambda t, y: -y, solver="dormand_prince")
    report = diagnostics.check_gradients(layer, np.ones((1, 1)))
    assert list(report.differences) == ["backsolve"]
    assert report.differences["backsolve"].overall is None
    assert 0 < report.drifts[0].relative < 1e-2
    assert "solver of tfp" in report.verdict
    assert "does not drift" in report.verdict
    assert re.search(r"backsolve +- +- +-", str(report))


def latent_ode():
    model = keras_node.LatentODE(1, 2, initial_time=0.5, solver=RK4)
    times = np.array([0.0, 0.5, 0.5, 1.0])
    return model, {"values": np.ones((2, 4, 1)), "times": times}


def conditional_bijector():
    flow = keras_node.CNFBijector(
        keras_node.ConcatTime(network("float32")), solver=RK4
    )
    return flow, {"x": X.astype("float32"), "condition": np.ones((4, 1), "f")}


def normalizing_flow():
    bijector = keras_node.CNFBijector(
        keras_node.PlanarDynamics(2), solver=RK4, trace="hutchinson"
    )
    flow = keras_node.NormalizingFlow(bijector, normal())
    return flow, X.astype("float32")


def functional_model():
    inputs = keras.Input((2,))
    first = keras_node.ODELayer(network("float32"), solver=RK4, name="first")
    last = keras_node.ODELayer(
        network("float32"), solver=RK4, return_sequences=True, name="last"
    )
    outputs = last(keras.layers.Dense(2)(first(inputs)))
    return keras.Model(inputs, outputs), X.astype("float32")


SUBJECTS = {
    "latent ODE": (latent_ode, ["latent_ode"]),
    "conditional bijector": (conditional_bijector, ["cnf"]),
    "flow": (normalizing_flow, ["cnf"]),
    "model": (functional_model, ["first", "last"]),
}
each_subject = pytest.mark.parametrize(
    ("make", "names"), SUBJECTS.values(), ids=SUBJECTS
)


@each_subject
def test_every_kind_of_model_is_checked(make, names):
    model, x = make()
    report = diagnostics.check_gradients(model, x)
    assert [drift.layer.rstrip("_0123456789") for drift in report.drifts] == (
        names
    )
    # RK4 forwards and back is exact to its order; float32.
    assert all(drift.relative < 1e-3 for drift in report.drifts)
    assert report.differences["checkpoint"].overall < 1e-4
    assert report.differences["backsolve"].overall < 1e-2
    paths = {weight.path for weight in model.trainable_variables}
    inputs = {name for name in report.gradient if name.startswith("input")}
    assert paths | inputs == set(report.gradient)
    assert len(inputs) == (2 if names == ["cnf"] and len(x) == 2 else 1)
    assert all(np.any(value) for value in report.gradient.values())


def test_check_leaves_a_model_as_it_was():
    model, x = functional_model()
    model(x)
    layers = [model.get_layer("first"), model.get_layer("last")]
    kept = [(layer.solver, layer.adjoint) for layer in layers]
    values = [variable.numpy() for variable in model.variables]
    metrics = [float(metric.result()) for metric in layers[0].metrics]
    assert metrics == [8.0, 0.0]
    diagnostics.check_gradients(model, x)
    for layer, (solver, adjoint) in zip(layers, kept, strict=True):
        assert layer.solver is solver
        assert layer.adjoint is adjoint
    assert [float(m.result()) for m in layers[0].metrics] == metrics
    for variable, value in zip(model.variables, values, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(TypeError, match="Expected a Keras layer"):
        diagnostics.check_gradients(lambda x: x, X)
    with pytest.raises(ValueError, match="that solves an ODE"):
        diagnostics.check_gradients(keras.layers.Dense(2), X)
    layer = layer_of(lambda t, y: -y, solver=RK4)
    with pytest.raises(ValueError, match="`loss` must depend on"):
        diagnostics.check_gradients(layer, X, lambda *_: tf.constant(1.0))
    with pytest.raises(ValueError, match='of "direct" must be finite'):
        diagnostics.check_gradients(layer, X, lambda *a: np.inf * total(*a))


# Work and precision.


def rotation(angle):
    return np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )


def relative(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def test_model_trained_with_coarse_euler_is_flagged(eagerly):
    # Perfectly trained: two of its steps turn by 2 rad, the ODE does not.
    matrix = 2 * (rotation(1.0) - np.eye(2))
    layer = layer_of(linear(matrix), solver=solvers.Euler(step_size=0.5))
    np.testing.assert_allclose(layer(X), X @ rotation(2.0).T)
    with pytest.warns(UserWarning, match="outputs depend on the solver"):
        report = diagnostics.work_precision(
            layer, X, ["tsit5"], [1e-3], loss=total
        )
    flow = linalg.expm(matrix)
    ones = np.ones_like(X)
    error = relative(X @ rotation(2.0).T, X @ flow.T)
    gradient_error = relative(ones @ rotation(2.0), ones @ flow)
    assert error > 0.5
    np.testing.assert_allclose(report.own.error, error, rtol=1e-6)
    np.testing.assert_allclose(
        report.own.gradient_error, gradient_error, rtol=1e-6
    )
    assert report.depends_on_solver
    assert report.own.solver == "Euler(step_size=0.5)"
    assert report.own.rtol is None
    assert report.own.nfe == 2
    assert "Euler(step_size=0.5) (own)" in str(report)


def test_model_trained_with_accurate_steps_is_not_flagged(eagerly):
    matrix = 2.0 * np.array([[0.0, -1.0], [1.0, 0.0]])
    layer = layer_of(linear(matrix), solver=solvers.Tsit5(rtol=1e-4, atol=1e-7))
    report = diagnostics.work_precision(layer, X, ["tsit5"], [1e-4])
    assert not report.depends_on_solver
    # The error is that of `rtol`, summed over a few steps.
    assert 1e-6 < report.own.error < 1e-3
    assert report.verdict.endswith("outputs are those of the ODE.")
    # The same solver as the model's own.
    assert report.rows == [report.own]


def test_rows_are_what_each_solver_takes_and_gives(eagerly):
    matrix = np.array([[0.0, -1.0], [1.0, -0.2]])
    times = (0.0, 2.0)
    layer = layer_of(linear(matrix), times=times)
    own = layer.solver
    rk4 = solvers.RK4(step_size=0.5)
    lanes = solvers.Tsit5(rtol=1e-2, atol=1e-3, per_sample_steps=True)
    report = diagnostics.work_precision(
        layer, X, ["dopri5", rk4, lanes], [1e-3, 1e-5], loss=total
    )
    assert layer.solver is own
    assert [(row.solver, row.rtol) for row in report.rows] == [
        ("Dopri5", 1e-3),
        ("Dopri5", 1e-5),
        ("RK4(step_size=0.5)", None),
        ("Tsit5", 1e-3),
        ("Tsit5", 1e-5),
    ]
    used = [
        solvers.Dopri5(rtol=1e-3, atol=1e-6),
        solvers.Dopri5(rtol=1e-5, atol=1e-8),
        rk4,
        solvers.Tsit5(rtol=1e-3, atol=1e-4, per_sample_steps=True),
        solvers.Tsit5(rtol=1e-5, atol=1e-6, per_sample_steps=True),
    ]
    expected = X @ linalg.expm(2 * matrix).T
    for row, solver in zip(report.rows, used, strict=True):
        results = keras_node.odeint(linear(matrix), X, times, solver)
        count = results.diagnostics.num_ode_fn_evaluations
        assert row.nfe == np.mean(count)
        error = relative(results.states[-1], expected)
        np.testing.assert_allclose(row.error, error, rtol=1e-4)


def test_tolerances_share_a_trace():
    traces = []

    def dynamics(t, y):
        traces.append(tf.inside_function())
        return -y

    euler = solvers.Euler(step_size=0.5)
    layer = layer_of(dynamics, solver=euler)
    layer.build((4, 2))

    def trace(rtols):
        before = len(traces)
        report = diagnostics.work_precision(
            layer, X, ["bosh3"], rtols, reference=euler
        )
        return len(traces) - before, report

    few, _ = trace([1e-2])
    many, report = trace([1e-2, 1e-3, 1e-4, 1e-5])
    assert few == many
    assert all(traces)
    assert report.own.error == 0.0
    assert report.reference == "Euler(step_size=0.5)"
    evaluations = [row.nfe for row in report.rows]
    assert evaluations == sorted(set(evaluations))


@pytest.mark.parametrize("make", [latent_ode, normalizing_flow])
def test_work_of_other_models_is_that_of_their_outputs(make, eagerly):
    model, x = make()
    report = diagnostics.work_precision(
        model, x, [solvers.RK4(step_size=0.25)], reference=RK4
    )
    # Four evaluations a step; the latent ODE goes both ways from 0.5.
    assert report.own.nfe == 8
    assert report.rows[0].nfe == 16
    assert report.own.error == 0.0
    assert report.rows[0].error < 1e-3
    assert 0.0 < report.rows[0].gradient_error < 1e-2


def test_solver_that_fails_is_a_row_of_nan(eagerly):
    layer = layer_of(linear(-np.eye(2)), solver=RK4)
    short = solvers.Tsit5(max_num_steps=1, first_step_size=1e-3)
    report = diagnostics.work_precision(layer, X, [short], [1e-3])
    assert np.isnan(report.rows[0].error)
    assert np.isnan(report.rows[0].gradient_error)
    assert "failed" in str(report)


def test_solver_of_tfp_is_made_at_each_tolerance(eagerly):
    layer = layer_of(linear(-np.eye(2)), solver=RK4)
    report = diagnostics.work_precision(
        layer, X[:1], ["dormand_prince"], [1e-2, 1e-4], reference=TIGHT
    )
    assert [row.rtol for row in report.rows] == [1e-2, 1e-4]
    assert report.rows[1].error < 0.1 * report.rows[0].error
    assert report.reference == "Tsit5(rtol=1e-05)"
    # One without a config has the tolerances that it was made with.
    raw = tfp.math.ode.DormandPrince()
    assert solver_measurement.solver_variants(raw, [1e-2, 1e-4]) == [
        (raw, [None])
    ]


def test_own_solver_that_fails_is_flagged(eagerly):
    short = solvers.Tsit5(
        max_num_steps=1, first_step_size=1e-3, on_failure="nan"
    )
    layer = layer_of(linear(-np.eye(2)), solver=short)
    with pytest.warns(UserWarning, match="own solver, Tsit5, fails"):
        report = diagnostics.work_precision(layer, X, [], reference=RK4)
    assert report.depends_on_solver
    assert report.rows == []


def test_tolerances_and_threshold_must_be_positive():
    layer = layer_of(linear(np.eye(2)))
    with pytest.raises(ValueError, match="`threshold` must be a positive"):
        diagnostics.work_precision(layer, X, threshold=0)
    with pytest.raises(ValueError, match="`rtols` must be positive floats"):
        diagnostics.work_precision(layer, X, rtols=[1e-3, 0.0])


# Solves.


def decay(t, y):
    return -y


def report_of(solver, dynamics=decay, y0=(1.0, 1.0, 1.0), times=(0.0, 1.0)):
    results = keras_node.odeint(dynamics, tf.constant(y0), times, solver)
    return diagnostics.solution_report(results)


def test_report_of_a_solve_tells_status_and_counts():
    assert report_of(solvers.Euler(), times=(0.0, 0.5, 2.0)) == (
        "Status    success\n"
        "Times     3, from 0 to 2\n"
        "NFE       2\n"
        "Accepted  2\n"
        "Rejected  0 (0 %)"
    )


def test_report_of_samples_tells_the_range_of_counts():
    results = keras_node.odeint(
        lambda t, y: tf.sin(y * y),
        tf.constant([[0.1], [30.0], [3.0]]),
        np.array([[0.0, 1.0], [0.0, 2.0], [0.5, 1.0]]),
        solvers.Tsit5(rtol=1e-5, per_sample_steps=True),
    )
    counts = results.diagnostics
    rejected = np.array(counts.num_rejected_steps)
    tried = np.sum(counts.num_accepted_steps) + np.sum(rejected)
    share = 100 * np.sum(rejected) / tried
    lines = diagnostics.solution_report(results).splitlines()
    assert lines[0] == "Status    success of all 3 samples"
    assert lines[1] == "Times     2, of each sample's own"
    assert np.any(rejected)
    for line, numbers in zip(lines[2:], counts[:3], strict=True):
        numbers = np.array(numbers)
        middle = sorted(numbers)[1]
        assert f"  {numbers.min()} / {middle} / {numbers.max()}" in line
    assert lines[4].endswith(f" ({share:.2g} %)")


def test_report_of_failed_samples_names_the_first_and_their_times():
    # y = 1 / (1 / y0 - t), which ends at 1 / y0.
    solver = solvers.Tsit5(per_sample_steps=True, on_failure="nan")
    y0 = [0.5, 2.0, 0.1, 4.0, 4.0, 4.0, 4.0, 4.0]
    text = report_of(solver, lambda t, y: y * y, y0)
    assert text.startswith("Status    6 of 8 samples failed\n          6 ")
    found = re.findall(r"sample (\d) at time ([\d.]+)", text)
    assert [int(sample) for sample, _ in found] == [1, 3, 4, 5, 6]
    times = [float(time) for _, time in found]
    np.testing.assert_allclose(times, [0.5] + 4 * [0.25], rtol=1e-3)
    assert ", ...\n" in text


def test_report_of_a_failed_solve_names_the_cause():
    solver = solvers.Tsit5(
        max_num_steps=2, first_step_size=0.1, on_failure="nan"
    )
    assert re.match(
        r"Status    failed at time 0\.\d+: reached `max_num_steps`",
        report_of(solver, lambda t, y: tf.cos(50.0 * t) * y),
    )


def test_report_of_a_solver_of_tfp_says_what_is_not_kept():
    lines = report_of("dormand_prince").splitlines()
    assert lines[0] == "Status    success"
    assert lines[3:] == ["Accepted  not kept", "Rejected  not kept"]


def test_report_of_something_else_is_refused():
    with pytest.raises(TypeError, match=r"`results` must be.*odeint"):
        diagnostics.solution_report({"states": 1})

    @tf.function(autograph=False)
    def solve():
        results = keras_node.odeint(decay, tf.ones([1]), (0.0, 1.0), "euler")
        return diagnostics.solution_report(results)

    with pytest.raises(TypeError, match="must hold numbers"):
        solve()

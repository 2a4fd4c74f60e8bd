"""Input known to be wrong: refused, with an error that says what and why."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from support import strategies
from support.strategies import (
    FEW_STEPS,
    INF,
    NAN,
    answer_or_refusal,
    decays,
    examples,
    refused,
    solve,
)

import keras_node
from keras_node import adjoints, likelihoods, regularizers, solvers, trace

watchdog = pytest.fixture(scope="module", autouse=True)(strategies.watchdog)
ONES = tf.ones((2, 2))


@pytest.fixture(scope="module")
def layer():
    return keras_node.ODELayer(decays, solver=solvers.Tsit5(**FEW_STEPS))


def _is_monotonic(times):
    gaps = np.diff(times)
    return len(times) > 1 and (np.all(gaps > 0) or np.all(gaps < 0))


wrong_times = st.one_of(
    st.lists(st.sampled_from((0.0, 0.5, 1.0, 1e5, -1.0)), max_size=4).filter(
        lambda times: not _is_monotonic(times)
    ),
    # Something that is no number, at any place.
    st.tuples(
        st.sampled_from((NAN, INF, -INF)), st.integers(0, 3), st.booleans()
    ).map(lambda drawn: _spoilt(*drawn)),
    st.sampled_from(([[[0.0, 1.0]]], [[0.0], [1.0]], 1.0, "0 1", [0.0, "a"])),
)


def _spoilt(value, place, is_array):
    times = [0.0, 1.0, 2.0, 3.0]
    times[place] = value
    return np.array(times) if is_array else tuple(times)


@examples(80, times=wrong_times)
def test_wrong_times_are_refused_by_everyone(layer, times):
    assert refused(solve, times=times)
    assert refused(layer, tf.ones((2, 2)), times=times)
    for make in (keras_node.ODELayer, keras_node.CNFBijector):
        assert refused(make, decays, times=times)


POSITIVE = st.sampled_from((0, 0.0, -1.0, -1e-9, NAN, INF, -INF, None, "1"))
OUT_OF_RANGE = {
    "rtol": POSITIVE,
    "atol": st.sampled_from((-1.0, -1e-12, NAN, INF, None, "1e-6")),
    "max_num_steps": st.sampled_from(
        (0, -1, 1.0, 10.5, NAN, True, False, None, "10", 2**31, 10**400)
    ),
    "on_failure": st.sampled_from(("", "Raise", None, True, 0, ["nan"])),
}
OUT_OF_OUR_RANGE = OUT_OF_RANGE | {
    "first_step_size": POSITIVE.filter(lambda value: value is not None),
    "step_size": POSITIVE.filter(lambda value: value is not None),
    "safety_factor": st.sampled_from((0.0, -0.5, 1.5, NAN, None, "0.8")),
    "min_step_size_factor": st.sampled_from((0.0, -0.1, 1.0, 2.0, NAN, None)),
    "max_step_size_factor": st.sampled_from((1.0, 0.5, -2.0, NAN, INF, None)),
}


@examples(
    150,
    method=st.sampled_from((*strategies.OWN_SOLVERS, "dormand_prince", "bdf")),
    data=st.data(),
)
def test_solver_arguments_out_of_their_range_are_refused(method, data):
    make = type(solvers.get(method))
    is_ours = method in strategies.OWN_SOLVERS
    ranges = OUT_OF_OUR_RANGE if is_ours else OUT_OF_RANGE
    name = data.draw(st.sampled_from(sorted(ranges)))
    assert refused(make, **{name: data.draw(ranges[name])})


@examples(
    60,
    name=st.text(max_size=8) | st.sampled_from(("Tsit5", "TSIT5", "rk45")),
    get=st.sampled_from(
        (
            solvers.get,
            adjoints.get,
            trace.get,
            likelihoods.get,
            lambda name: regularizers.get([name]),
            lambda name: keras_node.LatentODE(2, 2, encoder=name),
        )
    ),
)
def test_wrong_names_are_refused(name, get):
    assert refused(get, name)


wrong_states = st.sampled_from(
    (
        np.arange(3),
        [np.arange(3)],
        np.array([True]),
        np.array([1 + 1j]),
        np.array(["a"]),
        {"a": np.ones(2), "b": np.arange(2)},
        {"a": np.ones(2), "b": None},
        [np.ones(2), "a"],
        None,
        "a",
        {},
        [],
    )
)


@examples(40, state=wrong_states, per_sample_steps=st.booleans())
def test_states_that_are_not_floats_are_refused(state, per_sample_steps):
    solver = solvers.Tsit5(per_sample_steps=per_sample_steps)
    options = {"solver": solver}
    assert refused(solve, initial_state=state, **options)
    # Keras's layers take integers for floats.
    answer_or_refusal(keras_node.ODELayer(decays, **options), state)


@examples(10, state=st.sampled_from((np.array([1 + 1j]), np.array(["a"]))))
def test_layer_takes_no_complex_numbers_or_strings(layer, state):
    assert refused(layer, state)
    assert refused(layer, {"a": state, "b": np.ones(2)})


@pytest.mark.slow
@examples(
    60,
    spec=strategies.structures(strategies.leaves(batch=2)),
    value=st.sampled_from((NAN, INF, -INF)),
    method=st.sampled_from(strategies.OWN_SOLVERS),
    per_sample_steps=st.booleans(),
    on_failure=st.sampled_from(("raise", "nan")),
)
def test_state_that_is_not_finite_is_no_answer(
    spec, value, method, per_sample_steps, on_failure
):
    state = tf.nest.map_structure(lambda leaf: leaf.initial(), spec)
    first, *rest = tf.nest.flatten(state)
    spoilt = tf.concat([first[:1] * value, first[1:]], axis=0)
    state = tf.nest.pack_sequence_as(state, [spoilt, *rest])
    solver = type(solvers.get(method))(
        per_sample_steps=per_sample_steps, on_failure=on_failure
    )
    if on_failure == "raise":
        assert refused(solve, initial_state=state, solver=solver)
        return
    results = keras_node.odeint(decays, state, (0.0, 1.0), solver)
    last = tf.nest.flatten(results.states)[0][-1]
    assert np.all(np.isnan(tf.cast(last[0], "float64")))
    assert np.ravel(results.diagnostics.status)[0] < 0
    if per_sample_steps:
        strategies.assert_all_finite(last[1])
        assert results.diagnostics.status[1] == 0


WRONG_DERIVATIVES = {
    "None": lambda y: None,
    "an integer": lambda y: tf.zeros(y.shape, "int32"),
    "a string": lambda y: "dy/dt",
    "another float": lambda y: tf.cast(y, "float64"),
    "a smaller one": lambda y: y[..., :1],
    "a scalar": tf.reduce_sum,
    "one more axis": lambda y: y[None],
    "a list": lambda y: [y],
    "a pair": lambda y: (y, y),
    "a dict": lambda y: {"y": y},
    "nothing": lambda y: [],
}


@examples(
    60,
    name=st.sampled_from(sorted(WRONG_DERIVATIVES)),
    method=st.sampled_from(("euler", "tsit5", "dormand_prince")),
    adjoint=st.sampled_from(("checkpoint", "backsolve", "direct")),
    in_graph=st.booleans(),
)
def test_derivative_that_does_not_fit_is_refused(
    name, method, adjoint, in_graph
):
    if method == "dormand_prince":
        adjoint = "backsolve"
    wrong = WRONG_DERIVATIVES[name]

    def run(y0=ONES):
        solver, dynamics = solvers.get(method), lambda t, y: wrong(y)
        return solve(dynamics, y0, solver=solver, adjoint=adjoint)

    assert refused(tf.function(run) if in_graph else run)
    layer = keras_node.ODELayer(
        lambda t, y: wrong(y), solver=method, adjoint=adjoint
    )
    assert refused(layer, ONES)
    flow = keras_node.CNFBijector(lambda t, y: wrong(y), solver=method)
    assert refused(flow.forward, ONES)


POLE = 0.37
# What goes wrong on the way, from `y = 1` at `t = 0` to `t = 1`.
FAILURES = {
    "a pole in time": lambda t, y: y / (POLE - t),
    "a pole in the state": lambda t, y: 2 * y * y,
    "a double exponential": lambda t, y: tf.exp(tf.exp(4 * y)),
    "nan from the start": lambda t, y: NAN * y,
    "nan at a time": lambda t, y: tf.where(t > POLE, NAN * y, -y),
    "nan at a state": lambda t, y: tf.where(y < 0.9, NAN * y, -y),
    "infinity": lambda t, y: tf.where(t > POLE, INF * y, -y),
    "a root": lambda t, y: tf.sqrt(y - 1 / 2) - 3,
    "stiff": lambda t, y: -1e9 * (y - tf.cos(t)),
    "too fast": lambda t, y: 1e20 * tf.cos(1e20 * t) * y,
}


@pytest.mark.parametrize("failure", sorted(FAILURES))
@examples(
    6,
    method=st.sampled_from(strategies.OWN_SOLVERS),
    adjoint=st.sampled_from(("checkpoint", "backsolve")),
    step_size=st.none() | st.sampled_from((0.1, 0.013)),
    dtype=st.sampled_from(("float32", "float64")),
    max_num_steps=st.sampled_from((1, 5, 30)),
)
def test_failing_dynamics_end_with_a_status(
    failure, method, adjoint, step_size, dtype, max_num_steps
):
    options = {"step_size": step_size, "max_num_steps": max_num_steps}
    make, times = type(solvers.get(method)), (0.0, 0.1, 0.2, 1.0)
    y0 = tf.ones([2], dtype)
    with tf.GradientTape() as tape:
        tape.watch(y0)
        results = keras_node.odeint(
            FAILURES[failure],
            y0,
            times,
            make(on_failure="nan", **options),
            adjoint,
        )
    assert tape.gradient(results.states, y0) is not None
    is_finite = np.all(np.isfinite(results.states), axis=1)
    # What is right stays, what comes after a failure is not made up.
    assert is_finite[0]
    assert np.all(is_finite[:-1] >= is_finite[1:])
    assert is_finite[-1] == (results.diagnostics.status == 0)
    if results.diagnostics.status < 0:
        assert np.all(np.isnan(results.states[-1]))
        assert refused(
            solve, FAILURES[failure], y0, times, solver=make(**options)
        )


@pytest.fixture(scope="module")
def model():
    model = keras_node.LatentODE(2, 2, dynamics=decays)
    model.compile("sgd")
    return model


def _changed(array, value):
    array = np.array(array, float)
    array[..., 1] = value
    return array


VALUES, TIMES, MASK = np.ones((2, 3, 2)), np.arange(3.0), np.ones((2, 3), bool)
OWN_TIMES = np.stack([TIMES, TIMES])
# What cannot be right, of a batch of two series at three times.
WRONG_SERIES = {
    "values of rank 2": {"values": VALUES[0]},
    "values of rank 4": {"values": VALUES[None]},
    "too many features": {"values": np.ones((2, 3, 5))},
    "no features": {"values": np.ones((2, 3, 0))},
    "values at other times": {"values": np.ones((2, 4, 2))},
    "complex values": {"values": VALUES * 1j},
    "strings": {"values": np.full((2, 3, 2), "a")},
    "infinite values": {"values": _changed(VALUES, INF)},
    "nan that is observed": {"values": _changed(VALUES, NAN), "mask": MASK},
    "no values": {"values": None},
    "no times": {"times": None},
    "times of rank 0": {"times": 1.0},
    "times of rank 3": {"times": OWN_TIMES[None]},
    "fewer times": {"times": TIMES[:2]},
    "times of other samples": {"times": np.zeros((3, 3))},
    "descending times": {"times": -TIMES},
    "descending times of a sample": {"times": np.stack([TIMES, -TIMES])},
    "nan as a time": {"times": _changed(TIMES, NAN)},
    "infinity as a time": {"times": _changed(OWN_TIMES, INF)},
    "strings as times": {"times": ["a", "b", "c"]},
    "mask of rank 0": {"mask": True},
    "mask of rank 1": {"mask": MASK[0]},
    "mask of rank 4": {"mask": MASK[..., None, None]},
    "mask of other samples": {"mask": np.ones((3, 3), bool)},
    "mask of other features": {"mask": np.ones((2, 3, 4), bool)},
    "mask of strings": {"mask": np.full((2, 3), "a")},
}
USES = {
    "elbo": lambda model, series: model.elbo(**series),
    "bound": lambda model, series: model.importance_weighted_bound(**series),
    "encode": lambda model, series: model.encode(**series),
    "reconstruct": lambda model, series: model.reconstruct(**series),
    "fit": lambda model, series: model.fit(series, verbose=0),
    "evaluate": lambda model, series: model.evaluate(series, verbose=0),
    "predict": lambda model, series: model.predict(series, verbose=0),
}


@examples(
    182,
    wrong=st.sampled_from(sorted(WRONG_SERIES)),
    use=st.sampled_from(sorted(USES)),
)
def test_wrong_series_are_refused_by_all_uses(model, wrong, use):
    series = {"values": VALUES, "times": TIMES} | WRONG_SERIES[wrong]
    given = {key: item for key, item in series.items() if item is not None}
    assert refused(USES[use], model, given)


WRONG_USES = {
    "descending target times": ("reconstruct", {"target_times": [1.0, 0.0]}),
    "nan as target time": ("reconstruct", {"target_times": [0.0, NAN]}),
    "target times of rank 3": ("reconstruct", {"target_times": [[[0.0]]]}),
    "rows of other samples": ("reconstruct", {"target_times": [[0.0]] * 3}),
    "no samples": ("reconstruct", {"num_samples": 0}),
    "half a sample": ("elbo", {"num_samples": 0.5}),
    "less than a sample": ("importance_weighted_bound", {"num_samples": -1}),
    "a band of all": ("reconstruct", {"num_samples": 2, "credible_mass": 1.0}),
    "a band of none": ("reconstruct", {"num_samples": 2, "credible_mass": 0.0}),
    "a band of nan": ("reconstruct", {"num_samples": 2, "credible_mass": NAN}),
    "a half seed": ("elbo", {"seed": 0.5}),
    "targets without times": ("elbo", {"targets": {"values": VALUES}}),
    "targets that are values": ("elbo", {"targets": VALUES}),
    "targets of other samples": (
        "elbo",
        {"targets": {"values": np.ones((3, 3, 2)), "times": TIMES}},
    ),
}


@examples(60, wrong=st.sampled_from(sorted(WRONG_USES)))
def test_wrong_uses_of_a_latent_ode_are_refused(model, wrong):
    method, arguments = WRONG_USES[wrong]
    series = {"values": VALUES, "times": TIMES}
    assert refused(getattr(model, method), **series, **arguments)


@examples(
    40,
    arguments=st.sampled_from(
        (
            {"num_samples": 0, "times": TIMES},
            {"num_samples": 1.5, "times": TIMES},
            {"num_samples": 2, "times": -TIMES},
            {"num_samples": 2, "times": OWN_TIMES[None]},
            {"num_samples": 2, "times": [0.0, NAN]},
            {"num_samples": 2, "times": TIMES, "seed": "a"},
        )
    ),
)
def test_wrong_draws_of_a_latent_ode_are_refused(model, arguments):
    assert refused(model.generate, **arguments)


@examples(
    40,
    arguments=st.sampled_from(
        (
            {"num_samples": 0},
            {"num_samples": 1.5},
            {"num_samples": None},
            {"kl_weight": -1.0},
            {"kl_weight": NAN},
            {"kl_weight": "1"},
            {"kl_weight": None},
            {"loss": "mse"},
            {"metrics": ["mse"]},
        )
    ),
)
def test_wrong_compilation_is_refused(model, arguments):
    assert refused(model.compile, **arguments)

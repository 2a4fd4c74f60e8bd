"""CNFBijector: value, log-det, composition, conditions, errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.bijectors import ffjord

import keras_node
from keras_node.trace import Hutchinson

tfb, tfd = tfp.bijectors, tfp.distributions


def _network(features=2):
    initializer = keras.initializers.RandomNormal(stddev=0.5, seed=1)
    return keras.Sequential(
        [
            keras.layers.Dense(
                8, "tanh", kernel_initializer=initializer, dtype="float64"
            ),
            keras.layers.Dense(features, dtype="float64"),
        ],
    )


def _time_field(features=2):
    return keras_node.ConcatTime(_network(features), dtype="float64")


def _flow(dynamics=None, **kwargs):
    kwargs.setdefault("solver", keras_node.solvers.Tsit5(rtol=1e-8, atol=1e-10))
    return keras_node.CNFBijector(dynamics or _time_field(), **kwargs)


def _points(*shape):
    return tf.random.stateless_normal(shape, (1, 2), dtype=tf.float64)


def _matrix_field(t, y):
    """Mixes the entries of a 2 x 2 event, by amounts that depend on time."""
    t = tf.reshape(t, [-1, 1, 1])
    return tf.sin(y[:, ::-1] + t) + tf.cos(t) * tf.transpose(y, [0, 2, 1])


@pytest.mark.parametrize(
    ("times", "event"),
    [
        ((0.0, 1.0), (2,)),
        ((0.5, 1.7), (2,)),
        ((1.0, -0.5), (2, 2)),
        pytest.param((1.0, -0.5), (2,), marks=pytest.mark.slow),
        pytest.param((0.0, 1.0), (2, 2), marks=pytest.mark.slow),
        pytest.param((0.5, 1.7), (2, 2), marks=pytest.mark.slow),
    ],
)
def test_log_det_is_that_of_the_jacobian(times, event):
    dynamics = _time_field() if len(event) == 1 else _matrix_field
    flow = _flow(dynamics, times=times, event_ndims=len(event))
    x = _points(5, *event)
    size = int(np.prod(event))

    def flat(function, x):
        return tf.reshape(function(tf.reshape(x, (5, *event))), (5, size))

    for function, log_det in (
        (flow.forward, flow.forward_log_det_jacobian),
        (flow.inverse, flow.inverse_log_det_jacobian),
    ):
        x_flat = tf.reshape(x, (5, size))
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x_flat)
            y = flat(function, x_flat)
        jacobian = tape.batch_jacobian(y, x_flat, experimental_use_pfor=False)
        _, expected = np.linalg.slogdet(jacobian.numpy())
        actual = log_det(tf.identity(x))
        np.testing.assert_allclose(actual, expected, atol=1e-6)
    y = tf.identity(flow.forward(x))
    np.testing.assert_allclose(flow.inverse(y), x, atol=1e-6)


@pytest.mark.parametrize("batch", [(), (5,), (4, 5)], ids=str)
@pytest.mark.parametrize("per_sample_steps", [False, True])
def test_any_batch_shape_gives_the_same_numbers(batch, per_sample_steps):
    solver = keras_node.solvers.Tsit5(
        rtol=1e-8, atol=1e-10, per_sample_steps=per_sample_steps
    )
    flow = _flow(solver=solver)
    x = _points(20, 2)
    size = int(np.prod(batch))
    part = tf.reshape(x[:size], (*batch, 2))
    log_det = flow.forward_log_det_jacobian(part)
    assert log_det.shape == batch
    np.testing.assert_allclose(
        np.reshape(flow.forward(part), (size, 2)),
        flow.forward(x)[:size],
        atol=1e-6,
    )
    inverse = flow.inverse_log_det_jacobian(tf.identity(flow.forward(part)))
    np.testing.assert_allclose(inverse, -log_det, atol=1e-6)


@pytest.mark.parametrize("trace", ["hutchinson", "hutch++"])
def test_an_estimate_and_that_of_the_inverse_share_their_noise(trace):
    flow = _flow(_network(3), trace=trace)
    x = _points(6, 3)
    log_det = flow.forward_log_det_jacobian(x)
    inverse = flow.inverse_log_det_jacobian(tf.identity(flow.forward(x)))
    np.testing.assert_allclose(inverse, -log_det, atol=1e-6)
    exact = _flow(flow.dynamics).forward_log_det_jacobian(x)
    assert np.abs(log_det - exact).max() > 1e-3
    renewed = flow.forward_log_det_jacobian(tf.identity(x), training=True)
    assert np.abs(log_det - renewed).max() > 1e-3


@pytest.mark.filterwarnings("ignore:The dynamics read variables")
def test_a_function_with_variables_gets_new_noise_under_their_tape():
    matrix = tf.Variable(np.arange(9.0).reshape(3, 3) / 10)
    flow = _flow(lambda t, y: y @ matrix, trace=Hutchinson(seed=1))
    x = _points(6, 3)
    first = flow.forward_log_det_jacobian(x)
    again = flow.forward_log_det_jacobian(tf.identity(x))
    np.testing.assert_array_equal(first, again)
    with tf.GradientTape():
        renewed = flow.forward_log_det_jacobian(tf.identity(x))
    assert np.abs(first - renewed).max() > 1e-3


def test_log_prob_of_a_sample_costs_no_second_solve():
    flow = _flow()
    distribution = tfd.TransformedDistribution(_normal(), flow)
    sample = distribution.sample(4)
    diagnostics = flow.diagnostics
    log_prob = distribution.log_prob(sample)
    assert flow.diagnostics is diagnostics
    np.testing.assert_allclose(
        log_prob, distribution.log_prob(tf.identity(sample)), atol=1e-6
    )


def _normal():
    return tfd.MultivariateNormalDiag(tf.zeros(2, tf.float64))


def test_the_density_integrates_to_one():
    distribution = tfd.TransformedDistribution(_normal(), _flow())
    axis = np.linspace(-8, 8, 120)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    total = tf.reduce_sum(distribution.prob(grid)) * (axis[1] - axis[0]) ** 2
    assert abs(total - 1) < 5e-3


def test_log_prob_is_that_of_tfps_ffjord_from_time_zero():
    field = _time_field()
    theirs = ffjord.FFJORD(
        field,
        ode_solve_fn=keras_node.solvers.Tsit5(rtol=1e-8, atol=1e-10).solve,
        trace_augmentation_fn=ffjord.trace_jacobian_exact,
        dtype=tf.float64,
    )
    x = _points(6, 2)
    log_probs = [
        tfd.TransformedDistribution(_normal(), flow).log_prob(x)
        for flow in (_flow(field), theirs)
    ]
    np.testing.assert_allclose(*log_probs, atol=1e-6)


def test_weights_are_seen_through_chains_and_distributions():
    flow = _flow(_network())
    shift = tf.Variable(np.ones(2))
    chain = tfb.Chain([tfb.Shift(shift), flow, tfb.Invert(_flow())])
    distribution = tfd.TransformedDistribution(_normal(), chain)
    distribution.log_prob(_points(3, 2))
    assert len(flow.trainable_variables) == 4
    assert len(distribution.trainable_variables) == 9
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(distribution.log_prob(_points(3, 2)))
    gradients = tape.gradient(loss, distribution.trainable_variables)
    assert all(gradient is not None for gradient in gradients)


@pytest.mark.parametrize(
    "trace", ["exact", pytest.param("hutchinson", marks=pytest.mark.slow)]
)
def test_gradients_agree_eagerly_in_graphs_and_under_xla(trace):
    flow = _flow(trace=trace, solver="tsit5")
    distribution = tfd.TransformedDistribution(_normal(), flow)
    x = _points(3, 2)

    # In training each solve would draw noise of its own.
    options = {"bijector_kwargs": {"training": False}}

    def gradients(x):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(distribution.log_prob(x, **options))
        return tape.gradient(loss, flow.trainable_variables)

    expected = gradients(x)
    for jit_compile in (False, True):
        actual = tf.function(gradients, jit_compile=jit_compile)(x)
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


class Density(keras.Model):
    """A model of a user's own, with a flow as an attribute."""

    def __init__(self, flow):
        super().__init__()
        self.flow = flow
        self.base = tfd.MultivariateNormalDiag(tf.zeros(2))

    def call(self, x):
        return tfd.TransformedDistribution(self.base, self.flow).log_prob(x)


def test_a_keras_model_trains_the_flow_that_is_its_attribute():
    keras.utils.set_random_seed(0)
    net = keras.Sequential(
        [keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)]
    )
    model = Density(keras_node.CNFBijector(net))
    x = np.random.default_rng(0).normal(3.0, 0.5, (64, 2)).astype("float32")
    model(x)
    assert len(model.trainable_variables) == 4
    model.compile(keras.optimizers.Adam(0.05), loss=lambda _, y: -y)
    history = model.fit(x, np.zeros(64), epochs=8, verbose=0).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert history["cnf_nfe"][-1] > 6
    assert history["cnf_nfe_backward"][-1] == 0


def test_the_condition_reaches_the_dynamics_and_has_a_gradient():
    def dynamics(t, y, condition):
        return condition * tf.ones_like(y)

    flow = _flow(dynamics)
    x, condition = _points(4, 2), _points(4, 1)
    with tf.GradientTape() as tape:
        tape.watch(condition)
        y = flow.forward(x, condition=condition)
    np.testing.assert_allclose(y, x + condition, atol=1e-9)
    np.testing.assert_allclose(
        tape.gradient(y, condition), np.full((4, 1), 2.0), atol=1e-8
    )
    one_for_all = flow.forward(_points(3, 4, 2), condition=condition[:1])
    np.testing.assert_allclose(
        one_for_all, _points(3, 4, 2) + condition[0], atol=1e-9
    )


def test_concat_time_takes_a_condition_and_a_distribution_passes_it():
    distribution = tfd.TransformedDistribution(_normal(), _flow())
    kwargs = {"condition": _points(5, 3)}
    sample = distribution.sample(5, bijector_kwargs=kwargs)
    log_prob = distribution.log_prob(sample, bijector_kwargs=kwargs)
    again = distribution.log_prob(tf.identity(sample), bijector_kwargs=kwargs)
    np.testing.assert_allclose(log_prob, again, atol=1e-6)


def test_a_condition_that_is_missing_is_asked_for():
    flow = _flow(solver=keras_node.solvers.Euler())
    flow.forward(_points(4, 2), condition=_points(4, 1))
    for function in (flow.forward, flow.inverse_log_det_jacobian):
        with pytest.raises(ValueError, match="The dynamics need a `condition`"):
            function(_points(4, 2))
        with pytest.raises(ValueError, match="axis -1.*have value 4"):
            function(_points(4, 2), condition=_points(4, 2))


def test_a_condition_may_be_left_out_where_dynamics_can_do_without():
    def dynamics(t, y, condition=None):
        return y if condition is None else y * condition

    flow = _flow(dynamics)
    x = _points(4, 2)
    flow.forward(x, condition=_points(4, 1))
    np.testing.assert_allclose(flow.forward(x), np.e * x, rtol=1e-6)


class Linear(keras.layers.Layer):
    """A field whose divergence, claimed in closed form, is known wrong."""

    def call(self, t, y):
        return 0.1 * y

    def divergence(self, t, y):
        return 7.0 + 0.0 * y[:, 0]


@pytest.mark.parametrize("chained", [False, True], ids=["bare", "chain"])
def test_a_slice_of_a_distribution_is_that_of_its_batch(chained):
    flow = _flow(solver=keras_node.solvers.RK4(step_size=0.25))
    bijector = tfb.Chain([tfb.Scale(_points(2)), flow]) if chained else flow
    loc = _points(4, 2)
    distribution = tfd.TransformedDistribution(
        tfd.MultivariateNormalDiag(loc), bijector
    )
    x = _points(2)
    expected = distribution.log_prob(x)
    part = distribution[1:3]
    assert part.batch_shape == (2,)
    np.testing.assert_allclose(part.log_prob(x), expected[1:3])
    np.testing.assert_allclose(distribution[0].log_prob(x), expected[0])
    assert part.trainable_variables


@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
def test_an_event_without_features_has_no_volume_to_change(batch):
    flow = _flow(lambda t, y: -y)
    x = tf.zeros((*batch, 0), tf.float64)
    assert flow.forward(x).shape == flow.inverse(x).shape == (*batch, 0)
    log_det = flow.forward_log_det_jacobian(x)
    np.testing.assert_array_equal(log_det, np.zeros(batch))


def test_an_auto_batched_joint_distribution_holds_a_flow():
    solver = keras_node.solvers.RK4(step_size=0.25)
    _check_joint(tfd.JointDistributionSequentialAutoBatched, solver)


def test_an_auto_batched_joint_distribution_refuses_adaptive_steps():
    # Each element would write to a list at a place of its own.
    with pytest.raises(NotImplementedError, match="vectorized_map"):
        _check_joint(tfd.JointDistributionSequentialAutoBatched, "tsit5")


@pytest.mark.slow
def test_a_flow_is_trained_in_the_graph_of_an_auto_batched_distribution():
    solver = keras_node.solvers.RK4(step_size=0.5)
    flow = tfd.TransformedDistribution(_normal(), _flow(solver=solver))
    joint = tfd.JointDistributionSequentialAutoBatched([flow])
    x = _points(3, 2)
    flow.log_prob(x)
    weights = flow.trainable_variables

    def gradient(distribution, *x):
        with tf.GradientTape() as tape:
            log_prob = tf.reduce_sum(distribution.log_prob(*x))
        return tape.gradient(log_prob, weights)

    expected = gradient(flow, x)
    traced = tf.function(gradient, autograph=False)
    actual = traced(joint, [tf.identity(x)])
    assert not any(value is None for value in actual)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_joint_distribution_holds_a_flow():
    _check_joint(tfd.JointDistributionSequential, "tsit5")


def _check_joint(make, solver):
    flow = tfd.TransformedDistribution(_normal(), _flow(solver=solver))

    def noisy(x):
        return tfd.MultivariateNormalDiag(x, np.array([0.5, 2.0]))

    joint = make([flow, noisy], validate_args=True)
    x, y = joint.sample(5, seed=1)
    assert x.shape == y.shape == (5, 2)
    expected = flow.log_prob(tf.identity(x)) + noisy(x).log_prob(y)
    actual = joint.log_prob(tf.identity(x), y)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_dynamics_that_know_their_divergence_are_asked_for_it():
    flow = _flow(Linear(dtype="float64"))
    np.testing.assert_allclose(
        flow.forward_log_det_jacobian(_points(3, 2)), 7.0, rtol=1e-9
    )


@pytest.mark.parametrize("trace", ["exact", Hutchinson(2, "gaussian", 3)])
def test_a_flow_comes_back_from_its_config(trace):
    flow = _flow(times=(0.5, 2.0), trace=trace)
    copy = keras_node.CNFBijector.from_config(flow.get_config())
    assert copy.get_config() == flow.get_config()


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="`trace` must be one of"):
        _flow(trace="exakt")
    with pytest.raises(ValueError, match="`event_ndims` must be"):
        _flow(event_ndims=0)
    with pytest.raises(ValueError, match="the state's shape"):
        _flow(_network(3)).forward(_points(4, 2))
    with pytest.raises(ValueError, match="`event_ndims=2` needs a tensor"):
        _flow(event_ndims=2).forward(_points(4))
    with pytest.raises(TypeError, match="float events"):
        _flow().forward(tf.ones((4, 2), tf.int32))
    with pytest.raises(TypeError, match="the real and the imaginary one"):
        _flow().forward(tf.ones((4, 2), tf.complex64))
    with pytest.raises(ValueError, match="A `condition` needs dynamics"):
        _flow(_network()).forward(_points(4, 2), condition=_points(4, 1))
    with pytest.raises(ValueError, match="need a `condition`"):
        _flow(lambda t, y, condition: y).forward(_points(4, 2))


def test_a_function_that_changes_is_called_anew():
    rates = {"now": -1.0}
    flow = _flow(lambda t, y: rates["now"] * y)
    x = _points(3, 2)
    np.testing.assert_allclose(flow.forward(x), x / np.e, rtol=1e-6)
    rates["now"] = 1.0
    again = flow.forward(tf.identity(x))
    np.testing.assert_allclose(again, x * np.e, rtol=1e-6)


def test_a_copy_of_a_flow_has_its_noise():
    flow = _flow(_network(3), trace="hutchinson")
    x = _points(4, 3)
    expected = flow.forward_log_det_jacobian(x)
    copy = keras_node.CNFBijector.from_config(flow.get_config())
    copy.dynamics.set_weights(flow.dynamics.get_weights())
    actual = copy.forward_log_det_jacobian(tf.identity(x))
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("chained", [False, True], ids=["bare", "chain"])
def test_nothing_is_remembered_of_earlier_weights(chained):
    dynamics = _network()
    flow = _flow(dynamics)
    bijector = tfb.Chain([tfb.Scale(_points()), flow]) if chained else flow
    x = _points(3, 2)
    before = bijector.inverse(x), bijector.inverse_log_det_jacobian(x, 1)
    dynamics.trainable_variables[0].assign_add(0.1 * _points(2, 8))
    after = bijector.inverse(x), bijector.inverse_log_det_jacobian(x, 1)
    fresh = bijector.inverse(tf.identity(x))
    assert np.max(np.abs(before[0] - after[0])) > 1e-3
    assert np.max(np.abs(before[1] - after[1])) > 1e-3
    np.testing.assert_array_equal(after[0], fresh)


@pytest.mark.parametrize("chained", [False, True], ids=["bare", "chain"])
def test_a_tape_sees_what_was_computed_before_it(chained):
    dynamics = _network()
    flow = _flow(dynamics, adjoint="direct")
    bijector = tfb.Chain([tfb.Scale(_points()), flow]) if chained else flow
    x = _points(3, 2)
    kept = bijector.inverse(x), bijector.inverse_log_det_jacobian(x, 1)
    gradients = []
    for tensor in (x, tf.identity(x)):
        with tf.GradientTape() as tape:
            z = bijector.inverse(tensor)
            log_det = bijector.inverse_log_det_jacobian(tensor, 1)
            total = tf.reduce_sum(z**2) + tf.reduce_sum(log_det)
        gradients.append(tape.gradient(total, dynamics.trainable_variables))
    del kept
    for remembered, fresh in zip(*gradients, strict=True):
        np.testing.assert_allclose(remembered, fresh)


@pytest.mark.parametrize("kind", ["frozen", "no weights", "nested tapes"])
def test_a_tape_differentiates_the_density_of_an_earlier_sample(kind):
    flow = _flow((lambda t, y: -y) if kind == "no weights" else _network())
    distribution = tfd.TransformedDistribution(_normal(), flow)
    sample = distribution.sample(3)
    flow.trainable = kind != "frozen"
    with tf.GradientTape() as outer:
        outer.watch(sample)
        before = distribution.log_prob(sample)
        with tf.GradientTape() as tape:
            tape.watch(sample)
            log_prob = distribution.log_prob(sample)
        score = tape.gradient(log_prob, sample)
    np.testing.assert_allclose(outer.gradient(before, sample), score)
    fresh = tf.identity(sample)
    with tf.GradientTape() as tape:
        tape.watch(fresh)
        log_prob = distribution.log_prob(fresh)
    np.testing.assert_allclose(score, tape.gradient(log_prob, fresh))


@pytest.mark.filterwarnings("ignore:The dynamics read variables")
@pytest.mark.parametrize("what", ["solver", "times", "tolerance", "variable"])
def test_the_cache_forgets_what_was_computed_otherwise(what):
    tsit5 = keras_node.solvers.Tsit5
    rate = tf.Variable(1.0, dtype=tf.float64)
    flow = _flow(lambda t, y: -rate * y, solver=tsit5(rtol=1e-1, atol=1e-1))
    x = _points(3, 2)
    before = flow.forward(x)
    if what == "solver":
        flow.solver = tsit5(rtol=1e-7, atol=1e-9)
    elif what == "times":
        flow.times = (0.0, 2.0)
    elif what == "tolerance":
        flow.solver.rtol = flow.solver.atol = 1e-7
    else:
        rate.assign(3.0)
    after = flow.forward(x)
    assert np.any(after != before)
    np.testing.assert_array_equal(after, flow.forward(tf.identity(x)))


@pytest.mark.filterwarnings("ignore:The dynamics read variables")
@pytest.mark.parametrize("what", ["weights", "variable", "condition"])
def test_the_cache_forgets_what_a_first_call_gave(what):
    # What the first call has made, or found, it could not look at before.
    rate = tf.Variable([[1.0, 2.0]] * 3, dtype=tf.float64)
    if what == "condition":
        flow = _flow(lambda t, y, condition: -condition * y)
    else:
        flow = _flow(None if what == "weights" else lambda t, y: -rate * y)
    options = {"condition": rate} if what == "condition" else {}
    x = _points(3, 2)
    before = flow.forward_log_det_jacobian(x, 1, **options)
    for variable in flow.trainable_variables or [rate]:
        variable.assign(3.0 * variable)
    after = flow.forward_log_det_jacobian(x, 1, **options)
    assert np.abs(after - before).max() > 1e-2
    fresh = flow.forward_log_det_jacobian(tf.identity(x), 1, **options)
    np.testing.assert_array_equal(after, fresh)


def test_under_a_tape_a_sample_s_log_prob_costs_no_second_solve():
    distribution = tfd.TransformedDistribution(
        tfd.MultivariateNormalDiag(np.zeros(2)), _flow(_network())
    )
    distribution.sample(3)
    with tf.GradientTape() as tape:
        sample = distribution.sample(3)
        diagnostics = distribution.bijector.diagnostics
        log_prob = distribution.log_prob(sample)
    assert distribution.bijector.diagnostics is diagnostics
    weights = distribution.trainable_variables
    assert None not in tape.gradient(log_prob, weights)

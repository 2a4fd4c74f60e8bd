"""NeuralCDE: closed forms, irregular series, online use, saving, errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_node
from keras_node import NeuralCDE

KINDS = ("hermite", "natural_cubic", "linear", "rectilinear")
ACCURATE = keras_node.solvers.Tsit5(rtol=1e-7, atol=1e-9)
UNITS, FEATURES = 3, 2
MATRICES = np.random.default_rng(5).normal(size=(3, UNITS, UNITS)) * 0.5


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


@keras.saving.register_keras_serializable(package="tests")
class Linear(keras.layers.Layer):
    """`f(z)_ic = sum_j A_cij z_j`: a linear CDE."""

    def call(self, z):
        return tf.einsum("cij,bj->bic", tf.cast(MATRICES, z.dtype), z)


def _data(batch=4, count=7, seed=0):
    rng = np.random.default_rng(seed)
    times = 0.3 * (np.arange(count) + rng.uniform(0.0, 0.7, (batch, count)))
    values = 0.5 * rng.normal(size=(batch, count, FEATURES))
    return {"values": values, "times": times}


def _linear_layer(**options):
    return NeuralCDE(
        UNITS,
        Linear(dtype="float64"),
        solver=ACCURATE,
        dtype="float64",
        **options,
    )


def _product(increments, z):
    """Solves the linear CDE along straight lines, one after the other."""
    for increment in increments:
        matrix = np.einsum("bc,cij->bij", increment, MATRICES)
        z = np.einsum("bij,bj->bi", tf.linalg.expm(matrix), z)
    return z


def _with_time(data):
    return np.concatenate([data["times"][..., None], data["values"]], axis=-1)


def test_a_linear_cde_is_a_product_of_exponentials():
    data, layer = _data(), _linear_layer(interpolation="linear")
    found = layer(data)
    points = _with_time(data)
    kernel, bias = [w.numpy() for w in layer._initial.weights]
    increments = np.moveaxis(np.diff(points, axis=1), 1, 0)
    expected = _product(increments, points[:, 0] @ kernel + bias)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_rectilinear_path_takes_turns():
    data, layer = _data(), _linear_layer(interpolation="rectilinear")
    found = layer(data)
    points = _with_time(data)
    kernel, bias = [w.numpy() for w in layer._initial.weights]
    increments = []
    for step in np.moveaxis(np.diff(points, axis=1), 1, 0):
        increments += [step * [1.0, 0.0, 0.0], step * [0.0, 1.0, 1.0]]
    expected = _product(increments, points[:, 0] @ kernel + bias)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["hermite", "natural_cubic"])
def test_commuting_matrices_see_the_ends_of_a_path_alone(kind):
    class Diagonal(keras.layers.Layer):
        def call(self, z):
            rates = tf.constant([[0.3, -0.2, 0.1]] * UNITS, z.dtype)
            return z[:, :, None] * rates

    layer = NeuralCDE(
        UNITS, Diagonal(dtype="float64"), kind, solver=ACCURATE, dtype="float64"
    )
    data = _data()
    found = layer(data)
    points = _with_time(data)
    kernel, bias = [w.numpy() for w in layer._initial.weights]
    growth = np.exp((points[:, -1] - points[:, 0]) @ [0.3, -0.2, 0.1])
    expected = (points[:, 0] @ kernel + bias) * growth[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_observations_change_nothing(kind):
    data, layer = _data(), _linear_layer(interpolation=kind)
    expected = layer(data)
    keep = [0, 1, 2, 3, 3, 3, 4, 5, 6, 6]
    mask = np.ones((4, 10), bool)
    mask[:, [4, 5, 9]] = False
    padded = {name: x[:, keep] for name, x in data.items()}
    padded["times"] = np.where(mask, padded["times"], np.nan)
    padded["values"] = np.where(mask[..., None], padded["values"], 1e9)
    found = layer({**padded, "mask": mask})
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_each_sample_equals_itself_alone(kind):
    data, layer = _data(), _linear_layer(interpolation=kind)
    found = layer(data)
    alone = layer({name: x[2:3] for name, x in data.items()})
    np.testing.assert_allclose(found[2:3], alone, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_misses_what_happens_in_a_long_series(kind):
    # A level that changes once, which long steps would step over.
    values = np.zeros((1, 100, 1), "float32")
    values[:, 33:] = 1.0
    data = {"values": values, "times": np.linspace(0, 1, 100)[None]}
    layer = NeuralCDE(UNITS, interpolation=kind)
    found = layer(data)
    layer.solver = keras_node.solvers.RK4(0.25)
    np.testing.assert_allclose(found, layer(data), atol=2e-3)
    quiet = layer({**data, "values": np.zeros_like(values)})
    assert np.max(np.abs(found - quiet)) > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_rows_before_the_first_observation_change_nothing(kind):
    data = _data()
    layer = _linear_layer(interpolation=kind, return_sequences=True)
    expected = layer(data)
    padded = {
        "values": np.concatenate(
            [data["values"][:, :2] + 7, data["values"]], 1
        ),
        "times": np.concatenate([data["times"][:, :2] - 9, data["times"]], 1),
        "mask": np.arange(9) >= np.full((4, 1), 2),
    }
    found = layer(padded)
    np.testing.assert_allclose(found[:, 2:], expected, rtol=1e-5)
    # Nothing is known before.
    np.testing.assert_array_equal(found[:, :2], 0.0)


@pytest.mark.parametrize("sequences", [False, True])
def test_a_single_series_is_a_batch(sequences):
    data = {name: x[:1] for name, x in _data().items()}
    for kind in KINDS:
        for solver in (
            "tsit5",
            keras_node.solvers.Tsit5(per_sample_steps=True),
        ):
            layer = NeuralCDE(
                UNITS,
                interpolation=kind,
                return_sequences=sequences,
                solver=solver,
            )
            assert layer(data).shape[-1] == UNITS


def test_a_value_may_be_missing_in_a_row_that_is_seen():
    data, mask = _data(), np.ones((4, 7), bool)
    data["values"][0, 2, 0] = np.nan
    layer = NeuralCDE(UNITS)
    np.testing.assert_allclose(layer({**data, "mask": mask}), layer(data))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_has_the_state_at_each_observation(kind):
    data = _data()
    data["values"][1, 4:] = np.nan
    sequence = _linear_layer(interpolation=kind, return_sequences=True)
    layer = _linear_layer(interpolation=kind)
    found = sequence(data)
    assert found.shape == (4, 7, UNITS)
    last = layer(data)
    layer._initial.set_weights(sequence._initial.get_weights())
    last = layer(data)
    np.testing.assert_allclose(found[:, -1], last, rtol=1e-5)
    # Where nothing is observed any more the state stays.
    np.testing.assert_allclose(found[1, 3], found[1, 6], rtol=1e-5)
    initial = layer({name: x[:, :1] for name, x in data.items()})
    if kind == "rectilinear":
        np.testing.assert_allclose(found[:, 0], initial, rtol=1e-5)


def test_a_rectilinear_sequence_sees_no_future():
    data = _data()
    data["values"][0, :3, 1] = np.nan  # Not known at the beginning.
    layer = NeuralCDE(
        UNITS,
        interpolation="rectilinear",
        return_sequences=True,
        count_observations=True,
        integrate_values=True,
    )
    before = layer(data).numpy()
    data["values"][:, 4:] = 7.0
    data["times"][:, 4:] += 3.0
    after = layer(data).numpy()
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert not np.allclose(before[:, 4], after[:, 4])


def test_counts_tell_that_a_value_is_missing():
    data = _data()
    full = {name: x[:, :3].copy() for name, x in data.items()}
    full["values"][:] = 1.0
    gap = {name: x.copy() for name, x in full.items()}
    gap["values"][:, 1, 0] = np.nan
    for counts, is_equal in [(False, True), (True, False)]:
        layer = NeuralCDE(
            UNITS, interpolation="linear", count_observations=counts
        )
        assert np.allclose(layer(full), layer(gap), atol=1e-4) == is_equal


class Integrals(keras.layers.Layer):
    """The field whose state grows by the integrals of the features."""

    def call(self, z):
        rows = tf.one_hot([3, 4], 5, dtype=z.dtype)  # time, values, integrals
        return tf.repeat(rows[None], tf.shape(z)[0], axis=0)


@pytest.mark.parametrize("kind", KINDS)
def test_integrals_are_those_of_the_path_over_time(kind):
    data = _data()
    data["values"][:, 2, 0] = np.nan
    layer = NeuralCDE(
        FEATURES,
        Integrals(dtype="float64"),
        kind,
        integrate_values=True,
        solver=keras_node.solvers.RK4(1.0),
        dtype="float64",
    )
    found = layer(data)
    start = layer._initial(
        np.pad(_with_time(data)[:, 0], [(0, 0), (0, FEATURES)])
    )
    times, values = data["times"], data["values"]
    if kind == "rectilinear":
        known = values.copy()
        known[:, 2, 0] = known[:, 1, 0]
        expected = np.diff(times, axis=1)[..., None] * known[:, :-1]
        expected = expected.sum(axis=1)
    else:
        path = getattr(keras_node.interpolation, kind)(times, values)
        nodes, weights = np.polynomial.legendre.leggauss(4)
        lengths = np.diff(times, axis=1)[..., None] / 2
        inside = times[:, :-1, None] + lengths * (1 + nodes)
        points = path(inside.reshape(4, -1)).numpy()
        points = points.reshape(*inside.shape, FEATURES)
        expected = np.einsum("btnf,btn->bf", points, lengths * weights)
    np.testing.assert_allclose(found - start, expected, rtol=1e-6)


def test_gradients_flow_to_values_times_and_weights():
    # Fixed steps: finite differences see no other ones.
    data = _data(2, 4)
    layer = NeuralCDE(
        UNITS,
        Linear(dtype="float64"),
        return_sequences=True,
        solver=keras_node.solvers.RK4(0.1),
        dtype="float64",
    )
    layer(data)
    values, times = [tf.constant(data[k]) for k in ("values", "times")]
    kernel = layer._initial.kernel

    def loss(values, times):
        return tf.reduce_sum(layer({"values": values, "times": times}) ** 2)

    with tf.GradientTape() as tape:
        tape.watch([values, times])
        result = loss(values, times)
    by_values, by_times, by_kernel = tape.gradient(
        result, [values, times, kernel.value]
    )
    direction = np.random.default_rng(1).normal(size=values.shape)
    step = 1e-5 * direction
    difference = (
        loss(values + step, times) - loss(values - step, times)
    ) / 2e-5
    np.testing.assert_allclose(
        np.sum(by_values * direction), difference, rtol=1e-4
    )
    direction = np.random.default_rng(2).normal(size=times.shape)
    step = 1e-6 * direction
    difference = (
        loss(values, times + step) - loss(values, times - step)
    ) / 2e-6
    np.testing.assert_allclose(
        np.sum(by_times * direction), difference, rtol=1e-3
    )
    assert np.all(np.isfinite(by_kernel))


def test_series_without_observations_have_a_state():
    data = _data()
    data["values"][0] = np.nan
    for kind in KINDS:
        states = NeuralCDE(UNITS, interpolation=kind)(data)
        assert np.all(np.isfinite(states))


def _classifier(**options):
    inputs = {
        "values": keras.Input((None, FEATURES), name="values"),
        "times": keras.Input((None,), name="times"),
        "mask": keras.Input((None,), dtype="bool", name="mask"),
    }
    options.setdefault("interpolation", "linear")
    hidden = NeuralCDE(8, solver="rk4", name="cde", **options)(inputs)
    outputs = keras.layers.Dense(2)(hidden)
    return keras.Model(inputs, outputs)


def _turning(count, length, seed=0):
    """Series that turn one way or the other, and their classes."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0, 1, (count, length)), axis=1)
    labels = rng.integers(0, 2, count)
    angle = 4.0 * times * (2 * labels - 1)[:, None] + rng.uniform(
        0, 6, (count, 1)
    )
    values = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    mask = rng.random((count, length)) < 0.8
    return {"values": values, "times": times, "mask": mask}, labels


def test_a_classifier_is_trained_saved_and_used_on_longer_series(tmp_path):
    model = _classifier()
    model.compile(
        keras.optimizers.Adam(0.02),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    x, y = _turning(256, 12)
    history = model.fit(
        x,
        y,
        batch_size=32,
        epochs=4,
        verbose=0,
        class_weight={0: 1.0, 1: 1.0},
    ).history
    model.fit(x, y, sample_weight=np.zeros(256), verbose=0)
    assert history["accuracy"][-1] > 0.95
    assert history["cde_nfe"][-1] > 0
    longer, labels = _turning(64, 20, seed=1)
    predictions = model.predict(longer, verbose=0)
    assert np.mean(predictions.argmax(-1) == labels) > 0.9
    path = str(tmp_path / "model.keras")
    model.save(path)
    again = keras.models.load_model(path)
    np.testing.assert_allclose(
        again.predict(longer, verbose=0), predictions, rtol=1e-5
    )
    model.export(str(tmp_path / "served"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    tensors = {
        "values": tf.constant(longer["values"], tf.float32),
        "times": tf.constant(longer["times"], tf.float32),
        "mask": tf.constant(longer["mask"]),
    }
    np.testing.assert_allclose(served.serve(tensors), predictions, rtol=1e-4)


@pytest.mark.parametrize("kind", ["hermite", "rectilinear"])
def test_a_step_runs_under_xla_and_in_mixed_precision(kind):
    data = _data()
    layer = NeuralCDE(
        UNITS,
        interpolation=kind,
        return_sequences=True,
        integrate_values=True,
        dtype="mixed_bfloat16",
        solver=keras_node.solvers.Tsit5(max_num_steps=256),
    )
    expected = layer(data)
    assert expected.dtype == tf.bfloat16
    tensors = {k: tf.constant(v, tf.float32) for k, v in data.items()}
    found = tf.function(layer, jit_compile=True)(tensors)
    np.testing.assert_allclose(
        tf.cast(found, tf.float32), tf.cast(expected, tf.float32), atol=0.1
    )


def test_a_field_of_ones_own_is_saved():
    field = keras.Sequential([keras.layers.Dense(UNITS * 3, "tanh")])
    layer = NeuralCDE(UNITS, field)
    again = NeuralCDE.from_config(layer.get_config())
    data = _data()
    layer(data), again(data)
    again.set_weights(layer.get_weights())
    np.testing.assert_allclose(layer(data), again(data), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"units": 0}, "`units` must be"),
        ({"units": 3, "interpolation": "cubic"}, "`interpolation` must be"),
    ],
)
def test_wrong_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        NeuralCDE(**options)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d["values"], "must be a dict"),
        (lambda d: {**d, "times": d["times"][:, ::-1]}, "ascending"),
        (lambda d: {**d, "times": d["times"][:, :3]}, "must agree"),
        (lambda d: {**d, "values": d["values"] * np.inf}, "finite"),
        (lambda d: {"values": d["values"]}, "must be a dict"),
        (lambda d: {"times": d["times"]}, "must have `values`"),
    ],
)
def test_wrong_data_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        NeuralCDE(UNITS)(change(_data()))


@pytest.mark.parametrize(
    "field", [lambda t, z: z, keras_node.ConcatTime(keras.layers.Dense(9)), 3]
)
def test_a_field_of_time_is_refused(field):
    with pytest.raises(TypeError, match="layer or model of `z` alone"):
        NeuralCDE(UNITS, field)


def test_a_field_that_is_no_matrix_is_refused():
    layer = NeuralCDE(UNITS, keras.layers.Dense(UNITS))
    with pytest.raises(ValueError, match="units=3 and channels=3: time, feat"):
        layer(_data())

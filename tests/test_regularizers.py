"""Penalties: their integrals, losses and metrics, and that no more changes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_node
from keras_node import regularizers, solvers
from keras_node.regularizers import JacobianFrobenius, KineticEnergy

_RATES = np.array([-1.0, 0.5])
_Y0 = np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.0]], "float32")

# y = y0 exp(rate * t): |f|^2 = sum (rate y)^2 and |df/dy|^2 = sum rate^2.
_ENERGY = np.mean(
    np.sum(_Y0**2 * _RATES**2 * np.expm1(2 * _RATES) / (2 * _RATES), axis=1)
)
_FROBENIUS = np.sum(_RATES**2)
_PRECISE = {"rtol": 1e-6, "atol": 1e-7}


class Linear(keras.layers.Layer):
    def build(self, y_shape):
        self.rates = self.add_weight(shape=(2,), initializer="zeros")
        self.rates.assign(_RATES)

    def call(self, y):
        return self.rates * y


def _layer(times=(0.0, 1.0), **kwargs):
    return keras_node.ODELayer(
        Linear(), times, solver=solvers.Tsit5(**_PRECISE), **kwargs
    )


@pytest.mark.parametrize("adjoint", ["checkpoint", "backsolve", "direct"])
def test_kinetic_energy_and_its_gradient_are_those_of_the_closed_form(adjoint):
    layer = _layer(adjoint=adjoint, regularizers=[KineticEnergy(2.0)])
    x = tf.constant(_Y0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        layer(x)
        (loss,) = layer.losses
    np.testing.assert_allclose(loss, 2 * _ENERGY, rtol=1e-5)
    grad_x, grad_rates = tape.gradient(loss, [x, layer.dynamics.rates.value])
    growth = np.expm1(2 * _RATES) / (2 * _RATES)
    expected = 4 * _Y0 * _RATES**2 * growth / len(_Y0)
    np.testing.assert_allclose(grad_x, expected, rtol=1e-4, atol=1e-5)
    # d/dr of r (exp(2 r) - 1) / 2, times the squares of the state.
    slope = np.expm1(2 * _RATES) / 2 + _RATES * np.exp(2 * _RATES)
    expected = 2 * np.mean(_Y0**2, axis=0) * slope
    np.testing.assert_allclose(grad_rates, expected, rtol=1e-4)


def test_jacobian_norm_of_a_diagonal_field_is_exact_with_any_noise():
    layer = _layer(regularizers=[JacobianFrobenius(1.0)])
    layer(tf.constant(_Y0))
    np.testing.assert_allclose(layer.losses[0], _FROBENIUS, rtol=1e-5)


def test_jacobian_norm_is_unbiased():
    matrix = np.random.default_rng(0).normal(size=(3, 3)).astype("float32")
    layer = keras_node.ODELayer(
        lambda t, y: y @ matrix,
        solver=solvers.RK4(),
        regularizers=[JacobianFrobenius(1.0, seed=0)],
    )
    layer(tf.zeros((4000, 3)))
    # Of one draw: sum over pairs of (matrix^T matrix), Rademacher noise.
    gram = matrix.T @ matrix
    deviation = np.sqrt(2 * (np.sum(gram**2) - np.sum(np.diag(gram) ** 2)))
    error = abs(float(layer.losses[0]) - np.sum(matrix**2))
    assert error < 4 * deviation / np.sqrt(4000)
    assert error > 0


def test_reversed_times_give_a_positive_penalty():
    layer = _layer((1.0, 0.0), regularizers=[KineticEnergy(1.0)])
    layer(tf.constant(_Y0))
    assert layer.losses[0] > 0


def test_state_of_several_parts_is_summed_over_all():
    layer = keras_node.ODELayer(
        lambda t, y: {"a": -y["a"], "b": 0 * y["b"] + 1.0},
        regularizers=["kinetic_energy", "jacobian_frobenius"],
        times=(0.0, 2.0),
    )
    layer({"a": tf.zeros((3, 2)), "b": tf.zeros((3, 4, 1))})
    energy, frobenius = (loss / 0.01 for loss in layer.losses)
    np.testing.assert_allclose(energy, 4 * 2.0, rtol=1e-5)
    np.testing.assert_allclose(frobenius, 2 * 2.0, rtol=1e-5)


@pytest.mark.parametrize("per_sample_steps", [False, True])
def test_outputs_and_steps_are_those_without_penalties(per_sample_steps):
    solver = solvers.Tsit5(per_sample_steps=per_sample_steps)
    field = Linear()
    plain = keras_node.ODELayer(field, solver=solver, name="plain")
    both = [KineticEnergy(1e6), JacobianFrobenius(1e6)]
    penalized = keras_node.ODELayer(
        field, solver=solver, regularizers=both, name="penalized"
    )
    x = tf.constant(100 * _Y0)
    # Graphs of their own round each in its way.
    np.testing.assert_allclose(plain(x), penalized(x), rtol=1e-5)
    assert plain.metrics[0].result() == penalized.metrics[0].result()


@pytest.mark.parametrize("trace", ["exact", "hutchinson", "hutch++"])
def test_density_does_not_depend_on_the_weight(trace):
    keras.utils.set_random_seed(0)
    x = tf.constant(_Y0, tf.float64)  # No sum of it rounds at 1e-5.
    field = keras.Sequential([keras.layers.Dense(2, "tanh", dtype="float64")])
    estimator = keras_node.trace.get(trace)

    def log_det(weight):
        both = None
        if weight is not None:
            both = [KineticEnergy(weight), JacobianFrobenius(weight)]
        flow = keras_node.CNFBijector(field, trace=estimator, regularizers=both)
        value = flow.inverse_log_det_jacobian(tf.identity(x))
        return value.numpy(), [float(loss) for loss in flow.losses]

    without, no_losses = log_det(None)
    zero, losses_zero = log_det(0.0)
    one, losses_one = log_det(1.0)
    np.testing.assert_allclose(zero, without, rtol=1e-5)
    np.testing.assert_allclose(one, without, rtol=1e-5)
    assert no_losses == [] and losses_zero == [0.0, 0.0]
    assert min(losses_one) > 0


def test_losses_of_a_flow_are_those_of_its_last_solve():
    flow = keras_node.CNFBijector(Linear(), regularizers=[KineticEnergy(1.0)])
    for scale in (1.0, 2.0):
        flow.forward(scale * tf.constant(_Y0))
    (loss,) = flow.losses
    np.testing.assert_allclose(loss, 4 * _ENERGY, rtol=1e-2)


def test_fit_lowers_the_penalty_and_shows_it():
    keras.utils.set_random_seed(0)
    layer = _layer(regularizers=["kinetic_energy"], name="ode")
    model = keras.Sequential([keras.Input((2,)), layer])
    layer._penalties.regularizers[0].weight = 1.0
    model.compile(keras.optimizers.SGD(0.02), loss=lambda y, p: 0.0 * p)
    x = np.tile(_Y0, (4, 1))
    history = model.fit(x, x, batch_size=12, epochs=5, verbose=0).history
    energy = history["ode_kinetic_energy"]
    np.testing.assert_allclose(energy[0], _ENERGY, rtol=1e-4)
    np.testing.assert_allclose(history["loss"], energy, rtol=1e-5)
    assert np.all(np.diff(energy) < 0)


def test_layer_with_penalties_is_rebuilt_from_its_config():
    layer = _layer(regularizers=[KineticEnergy(0.5), JacobianFrobenius(seed=1)])
    config = layer.get_config()["regularizers"]
    again = regularizers.get(config)
    assert [type(r) for r in again] == [KineticEnergy, JacobianFrobenius]
    assert again[0].get_config() == {"weight": 0.5}
    assert again[1].get_config() == {"weight": 0.01, "seed": 1}


def test_wrong_regularizers_are_refused():
    with pytest.raises(ValueError, match="one of.*kinetic_energy"):
        _layer(regularizers=["energy"])
    with pytest.raises(TypeError, match="must be a list"):
        _layer(regularizers=KineticEnergy())
    with pytest.raises(TypeError, match="with parentheses"):
        _layer(regularizers=[KineticEnergy])
    with pytest.raises(ValueError, match="`weight`.*Received: weight=-1"):
        KineticEnergy(-1)

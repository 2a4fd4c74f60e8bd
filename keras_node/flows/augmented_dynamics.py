"""Augmented dynamics of a flow: state, log-det and penalties."""

from keras_node.dynamics import probe_noise
from keras_node.dynamics.linearization import Linearization
from keras_node.dynamics.vector_field import VectorField
from keras_node.flows.closed_divergence import bind_with_divergence
from keras_node.trace import ExactTrace


def augmented_dynamics(
    field, trace, penalties, y, key, condition=None, training=None
):
    """Returns dynamics of `(y, log_det, integrals)`.

    The divergence of the field is the derivative of the log-det.

    Args:
        field: `VectorField`.
        trace: `TraceEstimator`.
        penalties: `Penalties`.
        y: Float tensor `(batch, ...)`, the state at the first time.
        key: Integer, mixed into the seed of the noise of estimates.
        condition: Tensor, or `None` (default).
        training: Boolean, or `None` (default).
    """
    is_exact = isinstance(trace, ExactTrace)
    bind = bind_with_divergence if is_exact else VectorField.bind
    ode_fn = bind(field, training, condition)
    bits = None
    if trace.is_random or penalties.needs_probes:
        source = trace if trace.is_random else penalties
        bits = probe_noise.freeze(source.sample_probes(y, key))

    def augmented(t, state):
        y = state[0]
        linearization = Linearization(
            ode_fn, t, y, probe_noise.thaw(bits, y), has_divergence=is_exact
        )
        divergence = trace.divergence(linearization)
        rates = penalties.rates(linearization)
        return linearization.derivative, divergence, rates

    return augmented

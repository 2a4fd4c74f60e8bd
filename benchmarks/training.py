"""Vector fields, solves and steps in Keras, for this folder's scripts."""

import keras
import protocol
import tensorflow as tf
import workloads

import keras_node
from keras_node.trace import ExactTrace, Hutchinson

TIMES = (0.0, 1.0)


def use_benchmark_threads():
    """Gives TensorFlow as many threads as every other contender."""
    tf.config.threading.set_intra_op_parallelism_threads(protocol.THREADS)


def dense_network(workload):
    """Returns the dense layers of a workload, tanh between them."""
    biases = [v for k, v in workload.weights.items() if k.startswith("bias")]
    layers = [keras.layers.Dense(len(bias), "tanh") for bias in biases[:-1]]
    return keras.Sequential([*layers, keras.layers.Dense(len(biases[-1]))])


def group_norm():
    """Returns a normalization as the benchmarks' fields have it."""
    return keras_node.GroupNormalization(
        workloads.GROUPS, epsilon=workloads.GROUP_EPSILON
    )


class ConvField(keras.layers.Layer):
    """ODE block of the MNIST example, channels last."""

    def __init__(self, workload):
        super().__init__()
        channels = len(workload.weights["gamma_0"])
        self.norms = [group_norm() for _ in range(3)]
        self.convolutions = [
            keras_node.ConcatTime(
                keras.layers.Conv2D(channels, 3, padding="same")
            )
            for _ in range(2)
        ]

    def call(self, t, y):
        for norm, conv in zip(self.norms, self.convolutions, strict=False):
            y = conv(t, tf.nn.relu(norm(y)))
        return self.norms[-1](y)

    @property
    def weights_in_order(self):
        """The weights in the order of a workload's."""
        parts = zip(self.norms, self.convolutions, strict=False)
        weights = [w for pair in parts for part in pair for w in part.weights]
        return [*weights, *self.norms[-1].weights]


class Oscillator(keras.layers.Layer):
    """`y'' = -y`."""

    def call(self, t, y):
        position, velocity = tf.unstack(y, axis=-1)
        return tf.stack([velocity, -position], axis=-1)


class VanDerPol(keras.layers.Layer):
    """`y'' = mu (1 - y**2) y' - y`, with a `mu` of each sample."""

    def __init__(self, workload):
        super().__init__()
        self.mu = self.add_weight(shape=workload.weights["mu"].shape)

    def call(self, t, y):
        position, velocity = tf.unstack(y, axis=-1)
        damping = self.mu * (1 - position**2) * velocity
        return tf.stack([velocity, damping - position], axis=-1)


def make_field(workload):
    """Returns the Keras layer `field(t, y)` with the workload's weights."""
    field = {
        "mlp": lambda: keras_node.IgnoreTime(dense_network(workload)),
        "flow": lambda: keras_node.ConcatTime(dense_network(workload)),
        "conv": lambda: ConvField(workload),
        "oscillator": Oscillator,
        "van_der_pol": lambda: VanDerPol(workload),
    }[workload.kind]()
    field(tf.constant(0.0), tf.constant(workload.initial_state))
    values = workload.weights.values()
    for weight, value in zip(weights_of(field), values, strict=True):
        weight.assign(value)
    return field


def weights_of(field):
    """Returns the weights of a field in the order of its workload's."""
    return getattr(field, "weights_in_order", field.trainable_weights)


def make_solver(workload):
    """Returns the solver of a workload."""
    solver_class = type(keras_node.solvers.get(workload.method))
    if workload.step_size:
        return solver_class(
            step_size=workload.step_size,
            max_num_steps=workload.max_steps,
        )
    return solver_class(
        rtol=workload.rtol,
        atol=workload.atol,
        max_num_steps=workload.max_steps,
        per_sample_steps=workload.own_clocks,
    )


def layer(field, workload, adjoint="auto"):
    """Returns the solve of a layer: states at all times, and evaluations."""
    solver = make_solver(workload)

    def solve(initial_state):
        results = keras_node.odeint(
            field, initial_state, workload.times, solver, adjoint
        )
        counts = results.diagnostics.num_ode_fn_evaluations
        accepted = results.diagnostics.num_accepted_steps
        return results.states, (tf.reduce_max(counts), tf.reduce_max(accepted))

    return solve


class FixedProbes(Hutchinson):
    """Hutchinson's estimator with probes that every contender shares."""

    def __init__(self, probes):
        super().__init__()
        self._values = probes

    def sample_probes(self, y, key):
        return tf.constant(self._values)[tf.newaxis]


def flow(field, workload, adjoint="auto"):
    """Returns the solve of a flow: the state and the log-det."""
    is_exact = workload.probes is None
    trace = ExactTrace() if is_exact else FixedProbes(workload.probes)
    bijector = keras_node.CNFBijector(
        field,
        workload.times,
        solver=make_solver(workload),
        adjoint=adjoint,
        trace=trace,
    )
    return transformed(bijector)


def transformed(bijector):
    """Returns the solve of a bijector of vectors: the state and the log-det."""

    def solve(x):
        y = bijector.forward(x)
        log_det = bijector.forward_log_det_jacobian(x, event_ndims=1)
        return tf.concat([y, log_det[:, tf.newaxis]], axis=1)[tf.newaxis], (
            tf.constant(-1),
            tf.constant(-1),
        )

    return solve


def make_step(field, solve, jit_compile=False, trains=True):
    """One step as a `tf.function`, or in eager mode with `None`.

    Args:
        field: Keras layer, whose variables are trained.
        solve: Function of the initial state that returns the states at all
            times and tensors to hand through, such as counts.
        jit_compile: Boolean, whether XLA compiles it; or `None`, to leave it
            a Python function.
        trains: Boolean, whether there are gradients.

    Returns:
        A function of the initial state that returns the states, the
        gradients (of the variables, then of the initial state) and the
        counts.
    """

    def step(initial_state):
        variables = [weight.value for weight in weights_of(field)]
        if not trains:
            states, counts = solve(initial_state)
            return states, [], counts
        with tf.GradientTape() as tape:
            tape.watch(initial_state)
            states, counts = solve(initial_state)
            loss = tf.reduce_sum(tf.square(states[-1]))
            if len(states) > 2:
                loss += tf.reduce_sum(tf.square(states[1:-1]))
        return states, tape.gradient(loss, [*variables, initial_state]), counts

    return (
        step
        if jit_compile is None
        else tf.function(step, jit_compile=jit_compile)
    )

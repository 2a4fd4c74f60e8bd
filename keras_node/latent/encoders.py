"""Recognition networks: the ODE-RNN, and the encoders with a name."""

import keras

from keras_node import adjoints, solvers
from keras_node.common.arguments import as_positive_integer
from keras_node.dynamics.vector_field import VectorField
from keras_node.integration.solve import solve
from keras_node.saving import configs, identifiers
from keras_node.solvers import requested_times


@keras.saving.register_keras_serializable(package="keras_node")
class ODERNNCell(keras.layers.Layer):
    """One step of an ODE-RNN: an observation, then the gap to the next.

    A gated recurrent unit updates the hidden state `h` with the observation.
    `h` then follows `dh/dt = f(h)` over the time gap, which is the last
    feature of the input, differentiated by `DirectAdjoint`. A cell for
    `keras.layers.RNN`.

    Args:
        units: Positive integer, size of the hidden state.
        dynamics: The vector field `f`: a Keras layer or model of `h`, or any
            callable `f(t, h)` that does not depend on time. Default `None`,
            a network of one hidden layer of `units` tanh units.
        solver: Solver identifier, see `keras_node.solvers.get`. Default
            `"midpoint"`, which takes one step for each gap.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Reference:
    - [Rubanova et al., 2019, algorithm 1](https://arxiv.org/abs/1907.03907)
    """

    citations = ("rubanova2019",)

    def __init__(self, units, dynamics=None, solver="midpoint", **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = as_positive_integer(units, "units")
        if dynamics is None:
            dynamics = _default_dynamics(units, self.dtype_policy)
        self.dynamics = dynamics
        self._field = VectorField(self.dynamics, self)
        self.solver = solvers.get(solver)
        self.cell = keras.layers.GRUCell(units, dtype=self.dtype_policy)

    def build(self, input_shape):
        self.cell.build(input_shape)
        h = keras.KerasTensor((None, self.units), self.compute_dtype)
        self._field.build(requested_times.t_shape(self.solver), h)
        self._field_layers = self._field.held_layers()
        self._field.warn_of_untracked()

    def call(self, inputs, states, training=None):
        gap = inputs[:, -1:]
        h, _ = self.cell(inputs, states, training=training)
        ode_fn = self._field.bind(training)
        # Gaps differ between samples: each sample crosses its gap in one unit
        # of the solver's time, and all share the same steps.
        results = solve(
            lambda t, h: gap * ode_fn(t, h),
            h,
            (0.0, 1.0),
            self.solver,
            adjoints.DirectAdjoint(),
        )
        h = results.states[-1]
        return h, [h]

    def get_config(self):
        config = super().get_config()
        config.update(
            {
                "units": self.units,
                "dynamics": configs.serialize_dynamics(self.dynamics),
                "solver": solvers.serialize(self.solver),
            }
        )
        return config

    @classmethod
    def from_config(cls, config):
        return configs.from_config(cls, config, dynamics=configs.deserialize)


def _default_dynamics(units, dtype):
    return keras.Sequential(
        [keras.layers.Dense(units, "tanh", dtype=dtype) for _ in range(2)]
    )


def get(identifier, dtype=None):
    """Returns the encoder that an identifier stands for.

    Args:
        identifier: `"rnn"`, a gated recurrent network of 32 units, or
            `"ode_rnn"`, one of `ODERNNCell(32)`, which both run backwards in
            time; a config dict; or a Keras layer.
        dtype: Dtype or policy of encoders made by name. Default `None`,
            Keras's.

    Raises:
        ValueError: If a name is unknown.
        TypeError: If it is none of these.
    """

    def gru():
        # cuDNN only takes masks of padded tails.
        return keras.layers.GRU(
            32, go_backwards=True, use_cudnn=False, dtype=dtype
        )

    def ode_rnn():
        cell = ODERNNCell(32, dtype=dtype)
        return keras.layers.RNN(cell, go_backwards=True, dtype=dtype)

    return identifiers.get(
        identifier,
        {"rnn": gru, "ode_rnn": ode_rnn},
        "encoder",
        keras.layers.Layer,
    )

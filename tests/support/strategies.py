"""What random tests draw, how often, and what they demand of the answers.

`KERAS_NODE_EXAMPLES=10` in the environment draws ten times as many examples.
"""

import dataclasses
import datetime
import faulthandler
import functools
import os
import re
import sys
import typing

import hypothesis
import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from hypothesis import strategies as st

import keras_node

_SECONDS_PER_EXAMPLE = 150
_stderr = [sys.__stderr__]
SCALE = int(os.environ.get("KERAS_NODE_EXAMPLES", "1"))
ERRORS = (ValueError, TypeError, tf.errors.InvalidArgumentError)
NAN, INF = float("nan"), float("inf")
# Dtypes, and the distance from 1 to the next number.
FLOATS = {
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    "float32": 2.0**-23,
    "float64": 2.0**-52,
}
OWN_SOLVERS = (
    "euler",
    "midpoint",
    "heun",
    "rk4",
    "bosh3",
    "dopri5",
    "tsit5",
    "dopri8",
)
ADAPTIVE = OWN_SOLVERS[4:]
ADJOINTS = ("auto", "checkpoint", "backsolve", "direct")
# Keras and TensorFlow name arguments, data and names that they do not know.
_OF_KERAS = re.compile(
    "Unrecognized (keyword arguments|data type)"
    "|Only input tensors may be passed"
    "|is not a valid module name"
)
_OF_THE_HOUSE = re.compile("Received: .")


def examples(count, **arguments):
    """Gives a test `count` examples, the same ones in every run.

    One that hangs ends the process, with a traceback if `watchdog` runs.
    """
    settings = hypothesis.settings(
        max_examples=count * SCALE,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    def decorate(test):
        @functools.wraps(test)
        def watched(*args, **kwargs):
            faulthandler.dump_traceback_later(
                _SECONDS_PER_EXAMPLE, exit=True, file=_stderr[-1]
            )
            try:
                test(*args, **{k: made(v) for k, v in kwargs.items()})
            finally:
                faulthandler.cancel_dump_traceback_later()

        return settings(hypothesis.given(**arguments)(watched))

    return decorate


def watchdog(request):
    """A fixture that tells `examples` of the true standard error."""
    manager = request.config.pluginmanager.get_plugin("capturemanager")
    with manager.global_and_fixture_disabled():
        descriptor = os.dup(sys.__stderr__.fileno())
    _stderr.append(descriptor)
    yield
    os.close(_stderr.pop())


def assert_in_house_form(error):
    """An error says what was expected, and what came."""
    message = str(error)
    assert _OF_THE_HOUSE.search(message) or _OF_KERAS.search(message), (
        f"{type(error).__name__}: {message}"
    )


def refused(function, *arguments, **options):
    """Whether a call is refused, in the form of the house."""
    try:
        function(*arguments, **options)
    except ERRORS as error:
        assert_in_house_form(error)
        return True
    return False


def assert_all_finite(structure):
    """No number of a structure is NaN or infinite."""
    for leaf in tf.nest.flatten(structure):
        if tf.is_tensor(leaf) and leaf.dtype.is_floating:
            assert np.all(np.isfinite(tf.cast(leaf, "float64")))


def decays(t, y):
    """Dynamics of a state of any structure."""
    return tf.nest.map_structure(tf.negative, y)


Y0 = tf.constant([1.0, 2.0])
# A bound on what is slow because it is far away.
FEW_STEPS = {"max_num_steps": 40}


def solve(dynamics=decays, initial_state=Y0, times=(0.0, 1.0), **options):
    """`keras_node.odeint`, by default of few steps; returns the states."""
    options.setdefault("solver", keras_node.solvers.Tsit5(**FEW_STEPS))
    return keras_node.odeint(dynamics, initial_state, times, **options).states


def answer_or_refusal(function, *arguments, **options):
    """Calls a function: its answer must be finite, or a refusal well said."""
    try:
        answer = function(*arguments, **options)
    except ERRORS as error:
        assert_in_house_form(error)
    else:
        assert_all_finite(answer)


class Anything:
    """An object that nobody expects."""


@dataclasses.dataclass
class Maker:
    """Makes what can be changed, or draws random numbers of its own."""

    make: typing.Callable


def made(value):
    """Returns a drawn value, or what it makes."""
    return value.make() if isinstance(value, Maker) else value


def anything():
    """Returns a strategy of values that suit few arguments, or none."""
    # What float32 holds, and whose square it holds.
    numbers = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
    return st.one_of(
        st.sampled_from(_PLAIN),
        st.sampled_from(_MAKERS).map(Maker),
        st.integers(-5, 5),
        numbers,
        st.text(max_size=5),
        st.lists(numbers, max_size=3),
        st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    )


_PLAIN = (
    None,
    True,
    False,
    NAN,
    INF,
    -INF,
    1e30,
    1e-30,
    10**400,
    1 + 1j,
    "",
    "tsit5",
    "checkpoint",
    "nan",
    "a name that nobody has",
    b"tsit5",
    (),
    (0.0,),
    (0.0, 1.0),
    (1.0, 1.0),
    (0.0, NAN),
    ((0.0, 1.0), (0.0, 1.0)),
    (None, 1.0),
    ("0.0", "1.0"),
    frozenset({1.0}),
    range(3),
    slice(None),
    len,
    Anything,
    Ellipsis,
    NotImplemented,
    datetime.date(2018, 6, 19),
    keras.layers.Dense,
    keras_node.solvers.Tsit5,
    keras_node.adjoints.DirectAdjoint,
)
_MAKERS = (
    Anything,
    list,
    dict,
    bytearray,
    lambda: iter((0.0, 1.0)),
    lambda: [None],
    lambda: ["tsit5"],
    lambda: [[0.0], [1.0, 2.0]],
    lambda: {"class_name": "Tsit5"},
    lambda: {"class_name": "Tsit5", "config": None},
    lambda: {"class_name": None, "config": {}},
    lambda: {"class_name": "Nothing", "config": {}},
    lambda: {"config": {}},
    lambda: {"module": "os", "class_name": "system", "config": {}},
    lambda: np.float32(0.5),
    lambda: np.int64(2),
    lambda: np.array(1.0),
    lambda: np.array([]),
    lambda: np.zeros((2, 2)),
    lambda: np.array(["a"]),
    lambda: np.array([None, 1.0]),
    lambda: tf.constant(1.0),
    lambda: tf.constant([0.0, 1.0]),
    lambda: tf.constant("a"),
    lambda: tf.Variable(1.0),
    lambda: tf.ragged.constant([[0.0], [1.0, 2.0]]),
    lambda: tf.sparse.from_dense([[0.0, 1.0]]),
    lambda: keras.KerasTensor((2, 2)),
    lambda: keras.Input((2,)),
    lambda: keras.layers.Dense(2),
    lambda: keras.layers.Dropout(0.5),
    lambda: keras.Sequential([keras.layers.Dense(3)]),
    lambda: keras_node.solvers.Euler(),
    lambda: keras_node.adjoints.DirectAdjoint(),
    lambda: keras_node.trace.Hutchinson(),
    lambda: keras_node.regularizers.KineticEnergy(),
    lambda: tfp.distributions.Normal(0.0, 1.0),
    lambda: tfp.bijectors.Exp(),
    lambda: lambda: None,
    lambda: lambda t, y: None,
    lambda: lambda t, y: y,
    lambda: lambda y: y,
)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A part of a state, and the equation that it follows."""

    shape: tuple
    dtype: str
    rate: float
    seed: int

    @property
    def eps(self):
        """The distance from 1 to the next number."""
        return FLOATS[self.dtype]

    def initial(self):
        """Returns the initial values, as a tensor."""
        values = np.random.default_rng(self.seed).uniform(0.5, 2, self.shape)
        return tf.cast(values, self.dtype)


def leaves(dtypes=FLOATS, batch=None):
    """Returns a strategy of leaves, of any rank or with a batch axis."""
    sizes = st.integers(1, 3)
    shapes = st.lists(sizes, max_size=3 if batch is None else 2).map(tuple)
    if batch is not None:
        shapes = shapes.map(lambda shape: (batch, *shape))
    return st.builds(
        Leaf,
        shape=shapes,
        dtype=st.sampled_from(sorted(dtypes)),
        rate=st.floats(-2.0, 1.0),
        seed=st.integers(0, 99),
    )


def structures(leaf):
    """Returns a strategy of nested structures of what `leaf` draws."""
    return st.one_of(
        leaf,
        st.lists(leaf, min_size=1, max_size=2),
        st.tuples(leaf, leaf),
        st.fixed_dictionaries({"b": leaf, "a": st.tuples(leaf)}),
        st.fixed_dictionaries({"a": st.lists(leaf, min_size=1, max_size=2)}),
    )


@st.composite
def monotonic_times(draw, starts=(0.0, -1.0, 0.3), max_gap=1.0, max_size=5):
    """Returns times in either direction, as a float64 array."""
    gaps = draw(
        st.lists(
            st.floats(0.01, 1.0).map(lambda gap: gap * max_gap),
            min_size=1,
            max_size=max_size - 1,
        )
    )
    direction = draw(st.sampled_from((1.0, -1.0)))
    start = draw(st.sampled_from(starts))
    return start + direction * np.cumsum([0.0, *gaps])

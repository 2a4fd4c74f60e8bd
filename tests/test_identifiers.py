"""Names, config dicts and objects as solvers; their configs and arguments."""

import keras
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node
from keras_node import solvers

CLASSES = {
    "euler": solvers.Euler,
    "midpoint": solvers.Midpoint,
    "heun": solvers.Heun,
    "rk4": solvers.RK4,
    "bosh3": solvers.Bosh3,
    "dopri5": solvers.Dopri5,
    "tsit5": solvers.Tsit5,
    "dopri8": solvers.Dopri8,
    "dormand_prince": solvers.DormandPrince,
    "bdf": solvers.BDF,
}
# A value other than the default for each argument.
OF_ALL = {
    "rtol": 1e-5,
    "atol": 1e-9,
    "first_step_size": 0.25,
    "max_num_steps": 77,
    "on_failure": "nan",
}
OF_OURS = OF_ALL | {
    "step_size": 0.125,
    "safety_factor": 0.7,
    "min_step_size_factor": 0.1,
    "max_step_size_factor": 4.0,
    "per_sample_steps": True,
    "unroll": True,
}

each_solver = pytest.mark.parametrize("name", CLASSES)


def changed_arguments(name):
    return OF_ALL if name in ("dormand_prince", "bdf") else OF_OURS


@each_solver
def test_name_makes_a_solver_with_defaults(name):
    solver = solvers.get(name)
    assert type(solver) is CLASSES[name]
    assert isinstance(solver, tfp.math.ode.Solver)
    assert (solver.rtol, solver.atol) == (1e-3, 1e-6)
    assert solver.max_num_steps == 4096
    assert solver.on_failure == "raise"


@each_solver
def test_config_has_every_argument_and_makes_an_equal_solver(name):
    arguments = changed_arguments(name)
    solver = CLASSES[name](**arguments)
    config = solver.get_config()
    assert config == arguments
    for key, value in arguments.items():
        assert getattr(solver, key) == value
    assert type(solver).from_config(config).get_config() == config
    default = CLASSES[name]().get_config()
    assert all(default[key] != config[key] for key in arguments)


@each_solver
def test_serialized_solver_is_an_identifier(name):
    solver = CLASSES[name](**changed_arguments(name))
    restored = solvers.get(solvers.serialize(solver))
    assert type(restored) is type(solver)
    assert restored is not solver
    assert restored.get_config() == solver.get_config()


def test_serialized_solver_survives_json_and_keras_alone():
    solver = solvers.Tsit5(rtol=1e-7)
    config = solvers.serialize(solver)
    assert config["registered_name"] == "keras_node>Tsit5"
    restored = keras.saving.deserialize_keras_object(config)
    assert restored.get_config() == solver.get_config()


@pytest.mark.parametrize("class_name", ["Tsit5", "tsit5"])
def test_short_dict_takes_the_name_or_the_class_name(class_name):
    identifier = {"class_name": class_name, "config": {"rtol": 1e-5}}
    solver = solvers.get(identifier)
    assert type(solver) is solvers.Tsit5
    assert solver.rtol == 1e-5
    assert identifier == {"class_name": class_name, "config": {"rtol": 1e-5}}


def test_short_dict_may_leave_out_the_config():
    assert type(solvers.get({"class_name": "Dopri8"})) is solvers.Dopri8


def test_objects_are_returned_as_they_are():
    for solver in (solvers.Tsit5(), solvers.BDF()):
        assert solvers.get(solver) is solver


def test_a_foreign_solver_gets_an_adapter_once():
    foreign = tfp.math.ode.DormandPrince()
    solver = solvers.get(foreign)
    assert solver.solver is foreign
    assert solvers.get(solver) is solver
    assert not solver.can_replay


@pytest.mark.parametrize("solver", [solvers.Tsit5, tfp.math.ode.BDF])
def test_class_instead_of_object_gets_told_of_parentheses(solver):
    with pytest.raises(TypeError, match="with parentheses") as error:
        solvers.get(solver)
    assert f"`{solver.__name__}()`" in str(error.value)


@pytest.mark.parametrize("identifier", [None, 5, ["tsit5"], keras.layers.ReLU])
def test_other_types_are_refused(identifier):
    with pytest.raises(TypeError, match="`solver` must be .* Received: "):
        solvers.get(identifier)


@pytest.mark.parametrize(
    "identifier",
    ["rk45", "Tsit5 ", "", {"class_name": "RK45", "config": {}}, {}],
)
def test_unknown_names_are_refused_with_a_list_of_the_known(identifier):
    with pytest.raises(ValueError, match="(?s)`solver`.*Received: ") as error:
        solvers.get(identifier)
    for name in CLASSES:
        assert f"'{name}'" in str(error.value)


def test_solver_without_config_cannot_be_serialized():
    with pytest.raises(TypeError, match="must have a `get_config` method"):
        solvers.serialize(tfp.math.ode.DormandPrince())


def test_odeint_takes_each_kind_of_identifier():
    expected = keras_node.odeint(
        lambda t, y: -y, tf.ones([1]), (0.0, 1.0), solver=solvers.RK4()
    ).states
    for identifier in ("rk4", {"class_name": "RK4"}):
        states = keras_node.odeint(
            lambda t, y: -y, tf.ones([1]), (0.0, 1.0), solver=identifier
        ).states
        assert tf.reduce_all(states == expected)


WRONG = [
    ("rtol", 0.0),
    ("rtol", -1e-3),
    ("rtol", float("nan")),
    ("atol", -1e-6),
    ("atol", float("nan")),
    ("max_num_steps", 0),
    ("max_num_steps", 10.5),
    ("max_num_steps", None),
    ("on_failure", "ignore"),
    ("on_failure", None),
    ("first_step_size", 0.0),
    ("first_step_size", -0.1),
    ("step_size", 0.0),
    ("step_size", -0.1),
    ("safety_factor", 0.0),
    ("safety_factor", 1.1),
    ("min_step_size_factor", 0.0),
    ("min_step_size_factor", 1.0),
    ("max_step_size_factor", 1.0),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
@pytest.mark.parametrize("method", [solvers.Euler, solvers.Tsit5])
def test_wrong_arguments_are_refused_by_name(method, name, value):
    with pytest.raises(ValueError, match="Received: ") as error:
        method(**{name: value})
    message = str(error.value)
    assert f"`{name}`" in message
    expectation, received = message.split("Received: ")
    assert "must" in expectation
    assert f"{name}={value!r}" in received


def test_adaptive_steps_cannot_be_unrolled():
    with pytest.raises(ValueError, match="fixed steps.*Set `step_size`.*Tsit5"):
        solvers.Tsit5(unroll=True)
    with pytest.raises(TypeError, match="`unroll` must be a boolean"):
        solvers.RK4(unroll="yes")


@pytest.mark.parametrize(
    ("name", "value"), [case for case in WRONG if case[0] in OF_ALL][:10]
)
@pytest.mark.parametrize("method", [solvers.DormandPrince, solvers.BDF])
def test_solvers_of_tfp_refuse_wrong_arguments(method, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: {name}="):
        method(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("atol", 0.0),
        ("safety_factor", 1.0),
        ("max_num_steps", 1),
        ("first_step_size", None),
        ("step_size", None),
    ],
)
def test_arguments_at_the_edge_of_their_range_are_accepted(name, value):
    assert getattr(solvers.Tsit5(**{name: value}), name) == value


@pytest.mark.parametrize(
    "name", ["rtol", "atol", "first_step_size", "step_size", "safety_factor"]
)
@pytest.mark.parametrize("junk", ["a", 1j, (0.1,), float("nan"), 10**400])
def test_what_is_no_positive_number_is_refused(name, junk):
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: "):
        solvers.Tsit5(**{name: junk})

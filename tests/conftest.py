"""Which cases of the matrix the suite runs, and what a file leaves behind."""

import gc

import keras
import pytest
from tensorflow.python.framework import ops

MATRIX = {
    "test_frozen_dynamics.py",
    "test_gradients_of_captures.py",
    "test_gradients_of_variables.py",
    "test_solves_in_control_flow.py",
    "test_tracked_weights.py",
}
# The default adjoint, eagerly, and that of `odeint` in graphs; the others with
# `-m slow`.
SLOW = [
    {"backsolve"},
    {"direct"},
    {"xla"},
    {"ODELayer", "function"},
    {"CNFBijector", "function"},
    {"LatentODE", "function"},
    {"NormalizingFlow", "function"},
]


# The same for other tests: cases whose subject other cases of the test, or
# other tests, hold as well.
SLOW_CASES = {
    "test_a_decayed_state_has_the_gradient_of_the_decay": [
        {"Bosh3", "True"},
        {"Dopri8", "True"},
        {"Dopri5", "True"},
    ],
    "test_a_drift_too_large_gives_no_gradient": [{"graph", "raise"}],
    "test_a_graph_that_only_infers_records_nothing": [{"backsolve"}],
    "test_a_graph_with_its_gradient_is_freed": [{"False"}, {"direct"}],
    "test_a_healthy_solve_and_its_gradient_pass": [{"times3"}, {"times5"}],
    "test_a_tape_sees_what_was_computed_before_it": [{"chain"}],
    "test_all_weights_exist_before_the_first_step_and_are_trained": [
        {"partial"},
        {"template"},
        {"inverse_autoregressive"},
    ],
    "test_another_solver_is_used_at_once": [
        {"evaluate"},
        {"generate"},
        {"predict"},
    ],
    "test_any_batch_shape_gives_the_same_numbers": [{"(4, 5)", "False"}],
    "test_captured_encoder_output_equals_a_constant_part_of_the_state": [
        {"direct"}
    ],
    "test_clocks_of_their_own_keep_the_gradients_of_their_steps": [
        {"0"},
        {"16000"},
    ],
    "test_closed_forms_are_met_at_every_time": [{"float32"}],
    "test_density_does_not_depend_on_the_weight": [{"hutch++"}],
    "test_each_method_has_the_gradient_of_its_steps": [
        {"268435456", "rk4"},
        {"4000", "dopri8"},
        {"268435456", "dopri8"},
    ],
    "test_empty_states_have_empty_gradients": [{"shape1"}],
    "test_every_adjoint_is_exported": [{"direct"}, {"False", "backsolve"}],
    "test_every_way_to_fit_gives_what_eager_steps_give": [
        {"{'steps_per_execution': 2}"}
    ],
    "test_failing_dynamics_end_with_a_status": [
        {"a pole in the state"},
        {"a root"},
        {"infinity"},
        {"nan at a state"},
        {"nan at a time"},
        {"nan from the start"},
        {"too fast"},
        {"a pole in time"},
    ],
    "test_failure_is_nan_from_where_it_is": [{"bosh3"}, {"dopri8"}],
    "test_fit_shows_its_metrics_and_lowers_the_loss": [{"xla"}],
    "test_float64_is_kept_throughout": [{"NormalizingFlow"}],
    "test_function_that_reads_weights_sees_each_of_their_values": [
        {"CNFBijector"}
    ],
    "test_gradient_does_not_depend_on_what_is_kept": [
        {"0"},
        {"268435456", "eager"},
        {"4000", "xla"},
        {"4000", "eager"},
    ],
    "test_gradient_is_that_of_the_closed_form": [
        {"backsolve", "eager"},
        {"backsolve", "xla"},
        {"direct", "function"},
        {"direct", "xla"},
    ],
    "test_gradient_of_100_steps_equals_direct_whatever_is_stored": [
        {"3"},
        {"16"},
    ],
    "test_gradient_of_an_input_gradient_network_reaches_its_weights": [
        {"backsolve"}
    ],
    "test_gradient_of_another_solver_is_that_of_the_closed_form": [
        {"backsolve"}
    ],
    "test_gradient_of_awkward_dynamics": [
        {"0", "power"},
        {"0", "inner_function"},
        {"0", "count_above"},
    ],
    "test_gradients_of_rows_in_opposite_directions": [{"True"}, {"direct"}],
    "test_half_precision_trains_and_is_solved_in_float32": [{"LatentODE"}],
    "test_layer_in_control_flow_has_its_gradients": [{"tf"}, {"constant"}],
    "test_layer_of_the_dynamics_that_changes_is_seen_by_the_next_call": [
        {"enable_lora"},
        {"density_call"},
        {"reconstruct_call"},
        {"sample_call"},
    ],
    "test_model_export_is_one_call": [{"dormand_prince"}],
    "test_model_that_was_never_compiled_comes_back": [
        {"_by_deepcopy"},
        {"_by_file_not_compiled"},
        {"_by_pickle"},
    ],
    "test_nan_terminates_training": [{"NormalizingFlow"}],
    "test_network_that_a_callable_holds_is_trained": [
        {"density"},
        {"in_a_model"},
        {"trajectory"},
    ],
    "test_no_constant_of_a_graph_is_nan": [{"bosh3"}, {"dopri8"}],
    "test_no_epoch_is_traced_after_the_first": [{"NormalizingFlow"}],
    "test_nothing_is_traced_again_while_nothing_changes": [{"encode"}],
    "test_number_in_a_layer_of_ones_own_is_seen": [{"decoder"}],
    "test_padding_changes_nothing": [{"1000000000.0"}, {"0.0"}],
    "test_recurrent_layer_around_a_solve_has_its_gradient": [
        {"constant"},
        {"tf"},
    ],
    "test_rows_in_opposite_directions_equal_separate_solves": [
        {"4"},
        {"tsit5"},
    ],
    "test_schedule_works_in_compiled_and_repeated_steps": [
        {"{'steps_per_execution': 2}"}
    ],
    "test_second_derivative_is_that_of_the_closed_form": [
        {"function", "solver2"}
    ],
    "test_solve_in_control_flow_has_its_gradients": [{"tf"}, {"switch_case"}],
    "test_solver_that_is_changed_is_used_by_the_next_call": [
        {"CNFBijector"},
        {"LatentODE", "set_tolerance"},
    ],
    "test_solvers_of_tfp_have_gradients": [{"backsolve"}],
    "test_trained_model_comes_back": [
        {"_by_deepcopy"},
        {"_by_file_not_compiled"},
    ],
    "test_training_and_evaluation_have_tolerances_of_their_own": [
        {"NormalizingFlow"}
    ],
    "test_units_do_not_matter": [{"1e", "30"}, {"1e", "25"}],
    "test_weights_are_loaded_into_a_flow_that_was_never_called": [
        {"closure"},
        {"partial"},
        {"template"},
    ],
    "test_work_and_error_are_those_of_mature_solvers": [{"dopri5"}],
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks the cases that the suite leaves out as slow."""
    for item in items:
        parameters = getattr(item, "callspec", None)
        if parameters is None:
            continue
        sets = SLOW_CASES.get(item.originalname, [])
        if item.path.name in MATRIX:
            sets = sets + SLOW
        words = set(parameters.id.split("-"))
        if any(slow <= words for slow in sets):
            item.add_marker("slow")


@pytest.fixture(scope="module", autouse=True)
def nothing_left_behind():
    """Frees the graphs of a file: Keras's optimizers leave theirs for ever.

    They train through `tf.custom_gradient`, whose registry keeps all graphs.
    """
    yield
    keras.utils.clear_session()
    registry = ops.gradient_registry._registry
    for name in [name for name in registry if "CustomGradient" in name]:
        del registry[name]
    gc.collect()

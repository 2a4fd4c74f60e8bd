"""Status codes of a solve, and the message for each failure."""

import typing

SUCCESS = 0
MAX_NUM_STEPS = -1
UNDERFLOW = -2
NON_FINITE = -3


class Failure(typing.NamedTuple):
    """A failure in words.

    Attributes:
        name: String, for a report.
        cause: Sentences, what happened and what to do.
        backward_cause: A sentence, what happened in a backward solve.
    """

    name: str
    cause: str
    backward_cause: str


FAILURES = {
    MAX_NUM_STEPS: Failure(
        "reached `max_num_steps`",
        "`max_num_steps` was reached before the last time. Raise "
        "`max_num_steps`, loosen `rtol` and `atol`, {or_else}.",
        "it took `max_num_steps` steps.",
    ),
    UNDERFLOW: Failure(
        "step size below the resolution of time",
        "the step size fell below the resolution of time. Loosen `rtol` and "
        "`atol` (below about 1e-6 they need a float64 state), or bound the "
        "dynamics.",
        "its step size fell below the resolution of time.",
    ),
    NON_FINITE: Failure(
        "values not finite",
        "the state or its derivative is not finite. Bound the dynamics (tanh, "
        "smaller weights), or shorten `times`; with fixed steps, lower "
        "`step_size`.",
        "its state is not finite.",
    ),
}

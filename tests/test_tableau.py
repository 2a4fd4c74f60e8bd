"""The tableaus as algebra: order conditions, dense output, SciPy's arrays.

The order conditions are those of Butcher's theory (Hairer, Nørsett & Wanner,
1993, Sec. II.2): weights `b` have order `p` if and only if, for every rooted
tree `t` of at most `p` nodes, `sum_j b_j phi_j(t) = 1 / gamma(t)`.
"""

import functools
import math

import numpy as np
import pytest
from scipy import integrate

from keras_node.solvers import explicit_methods
from keras_node.solvers.tableau import ButcherTableau

PAIRS = [
    explicit_methods.Bosh3,
    explicit_methods.Dopri5,
    explicit_methods.Tsit5,
    explicit_methods.Dopri8,
]
METHODS = [
    explicit_methods.Euler,
    explicit_methods.Midpoint,
    explicit_methods.Heun,
    explicit_methods.RK4,
    *PAIRS,
]
THETAS = np.linspace(0, 1, 9)

# Coefficients of size up to 5e2 are rounded to double precision.
TOLERANCE = 1e-12
# A condition that does not hold is off by more than this; the closest one, of
# the dense output of `Dopri8` at order 8, is off by 1.6e-5.
DEFECT = 1e-5

each_method = pytest.mark.parametrize(
    "method", METHODS, ids=lambda method: method.__name__
)
each_pair = pytest.mark.parametrize(
    "method", PAIRS, ids=lambda method: method.__name__
)


@functools.cache
def rooted_trees(num_nodes):
    """Returns the rooted trees; a tree is the tuple of its root's subtrees."""
    return forests(num_nodes - 1, num_nodes - 1)


@functools.cache
def forests(num_nodes, max_size):
    """Returns the multisets of trees, each of at most `max_size` nodes."""
    if num_nodes == 0:
        return [()]
    if max_size == 0:
        return []
    # Split off the largest trees, in the order of `rooted_trees`.
    found = list(forests(num_nodes, max_size - 1))
    for count in range(1, num_nodes // max_size + 1):
        rest = forests(num_nodes - count * max_size, max_size - 1)
        for largest in multisets(rooted_trees(max_size), count):
            found += [largest + forest for forest in rest]
    return found


def multisets(items, count):
    if count == 0:
        return [()]
    return [
        (item, *others)
        for i, item in enumerate(items)
        for others in multisets(items[i:], count - 1)
    ]


def size(tree):
    return 1 + sum(map(size, tree))


def gamma(tree):
    return size(tree) * math.prod(map(gamma, tree))


def phi(tree, a):
    """Returns the elementary weights of a tree, one for each stage."""
    return math.prod(
        (a @ phi(subtree, a) for subtree in tree), start=np.ones(len(a))
    )


def square(a):
    return np.array([[*row, *[0] * (len(a) - len(row))] for row in a], float)


def pad(weights, num_stages):
    return np.array([*weights, *[0] * (num_stages - len(weights))], float)


def defect(tableau, weights, order, theta=1.0):
    """Returns the largest defect in the conditions with `order` nodes."""
    a = square(tableau.a)
    b = pad(weights, len(a))
    return max(
        abs(b @ phi(tree, a) - theta**order / gamma(tree))
        for tree in rooted_trees(order)
    )


def has_order(tableau, weights, order, theta=1.0):
    defects = [defect(tableau, weights, p, theta) for p in range(1, order + 1)]
    return max(defects) < TOLERANCE


def dense_weights(tableau, theta):
    powers = theta ** np.arange(1, len(tableau.b_dense[0]) + 1)
    return np.array(tableau.b_dense, float) @ powers


def dense_derivative(tableau, theta):
    powers = np.arange(1, len(tableau.b_dense[0]) + 1)
    return np.array(tableau.b_dense, float) @ (powers * theta ** (powers - 1))


def test_rooted_trees_are_all_there_and_distinct():
    trees = [rooted_trees(order) for order in range(1, 10)]
    # https://oeis.org/A000081
    assert list(map(len, trees)) == [1, 1, 2, 4, 9, 20, 48, 115, 286]
    assert all(len(set(map(canonical, group))) == len(group) for group in trees)
    assert [size(group[0]) for group in trees] == list(range(1, 10))


def canonical(tree):
    return tuple(sorted(map(canonical, tree)))


@each_method
def test_solution_has_the_declared_order(method):
    tableau = method.tableau
    assert has_order(tableau, tableau.b, tableau.order)


@each_method
def test_solution_has_no_higher_order_than_declared(method):
    tableau = method.tableau
    assert defect(tableau, tableau.b, tableau.order + 1) > DEFECT


@each_pair
def test_embedded_solution_has_the_declared_order(method):
    tableau = method.tableau
    b_hat = np.subtract(tableau.b, tableau.b_error)
    assert has_order(tableau, b_hat, tableau.error_order)


@each_pair
def test_embedded_solution_has_no_higher_order_than_declared(method):
    tableau = method.tableau
    b_hat = np.subtract(tableau.b, tableau.b_error)
    assert defect(tableau, b_hat, tableau.error_order + 1) > DEFECT


def test_second_error_estimate_of_dopri8_has_order_3():
    tableau = explicit_methods.Dopri8.tableau
    b_hat = np.subtract(tableau.b, tableau.b_error_damping)
    assert has_order(tableau, b_hat, 3)
    assert defect(tableau, b_hat, 4) > DEFECT


@each_pair
@pytest.mark.parametrize("theta", THETAS)
def test_dense_output_has_the_declared_order(method, theta):
    tableau = method.tableau
    weights = dense_weights(tableau, theta)
    assert has_order(tableau, weights, tableau.dense_order, theta)


@each_pair
def test_dense_output_has_no_higher_order_than_declared(method):
    tableau = method.tableau
    weights = dense_weights(tableau, 0.3)
    assert defect(tableau, weights, tableau.dense_order + 1, 0.3) > DEFECT


@each_pair
def test_dense_output_ends_at_the_solution(method):
    tableau = method.tableau
    expected = pad(tableau.b, len(tableau.c))
    np.testing.assert_allclose(
        dense_weights(tableau, 1.0), expected, rtol=0, atol=TOLERANCE
    )


@each_pair
def test_dense_output_has_a_continuous_derivative(method):
    tableau = method.tableau
    first, last = np.eye(len(tableau.c))[[0, tableau.num_stages - 1]]
    np.testing.assert_array_equal(dense_derivative(tableau, 0.0), first)
    # The derivative multiplies the rounding of the coefficients by up to 7.
    np.testing.assert_allclose(
        dense_derivative(tableau, 1.0), last, rtol=0, atol=10 * TOLERANCE
    )


@each_method
def test_nodes_are_the_row_sums(method):
    tableau = method.tableau
    np.testing.assert_allclose(
        square(tableau.a).sum(axis=1), tableau.c, rtol=0, atol=TOLERANCE
    )


@each_method
def test_first_same_as_last_is_derived_from_the_coefficients(method):
    assert method.tableau.fsal == (method in PAIRS)


@each_method
def test_stages_are_counted_from_the_coefficients(method):
    main = [1, 2, 2, 4, 4, 7, 7, 13][METHODS.index(method)]
    extra = 3 if method is explicit_methods.Dopri8 else 0
    assert method.tableau.num_stages == main
    assert method.tableau.num_dense_stages == extra


@pytest.mark.parametrize(
    ("method", "peer"),
    [
        (explicit_methods.Bosh3, integrate.RK23),
        (explicit_methods.Dopri5, integrate.RK45),
    ],
    ids=["Bosh3", "Dopri5"],
)
def test_pairs_are_those_of_scipy(method, peer):
    tableau = method.tableau
    # SciPy keeps the last main stage, f(t1, y1), out of A, B and C.
    expected = {
        "a": peer.A,
        "b": peer.B,
        "c": peer.C,
        "b_error": -peer.E,
        "b_dense": peer.P,
    }
    found = {
        "a": square(tableau.a)[:-1, : peer.A.shape[1]],
        "b": tableau.b[:-1],
        "c": tableau.c[:-1],
        "b_error": tableau.b_error,
        "b_dense": tableau.b_dense,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name], value, rtol=1e-15, atol=1e-16, err_msg=name
        )


def test_dopri8_is_dop853_of_scipy():
    tableau, peer = explicit_methods.Dopri8.tableau, integrate.DOP853
    a = square(tableau.a)
    np.testing.assert_array_equal(a[:12, :12], peer.A)
    np.testing.assert_array_equal(a[12, :12], peer.B)
    np.testing.assert_array_equal(a[13:], peer.A_EXTRA)
    np.testing.assert_array_equal(tableau.b, [*peer.B, 0])
    np.testing.assert_array_equal(tableau.c, [*peer.C, 1, *peer.C_EXTRA])
    np.testing.assert_array_equal(tableau.b_error, peer.E5)
    np.testing.assert_allclose(
        tableau.b_error_damping, peer.E3, rtol=1e-15, atol=1e-16
    )


def test_dense_output_of_dopri8_is_that_of_scipy():
    def ode_fn(t, y):
        return np.array([y[1] + np.sin(t), -y[0] * y[1]])

    t0, dt, y0 = 0.3, 0.5, np.array([0.7, -0.4])
    # An infinite tolerance makes SciPy take its first step as it is.
    solver = integrate.DOP853(
        ode_fn, t0, y0, t0 + 2 * dt, first_step=dt, rtol=1e9, atol=1e9
    )
    solver.step()
    tableau = explicit_methods.Dopri8.tableau
    stages = []
    for c, row in zip(tableau.c, tableau.a, strict=True):
        y = y0 + dt * sum((a * k for a, k in zip(row, stages, strict=True)), 0)
        stages.append(ode_fn(t0 + c * dt, y))
    expected = solver.dense_output()(t0 + THETAS * dt).T
    found = [
        y0 + dt * dense_weights(tableau, theta) @ stages for theta in THETAS
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_dense_output_of_tsit5_is_the_published_one():
    def published(theta):
        square = theta**2
        return [
            -1.0530884977290216
            * theta
            * (theta - 1.3299890189751412)
            * (square - 1.4364028541716351 * theta + 0.7139816917074209),
            0.1017
            * square
            * (square - 2.1966568338249754 * theta + 1.2949852507374631),
            2.490627285651252793
            * square
            * (square - 2.38535645472061657 * theta + 1.57803468208092486),
            -16.54810288924490272
            * (theta - 1.21712927295533244)
            * (theta - 0.61620406037800089)
            * square,
            47.37952196281928122
            * (theta - 1.203071208372362603)
            * (theta - 0.658047292653547382)
            * square,
            -34.87065786149660974 * (theta - 1.2) * (theta - 2 / 3) * square,
            2.5 * (theta - 1) * (theta - 0.6) * square,
        ]

    tableau = explicit_methods.Tsit5.tableau
    for theta in THETAS:
        np.testing.assert_allclose(
            dense_weights(tableau, theta), published(theta), rtol=0, atol=1e-13
        )


def test_tsit5_has_the_published_nodes_and_error_weights():
    tableau = explicit_methods.Tsit5.tableau
    np.testing.assert_allclose(
        tableau.c[:4], [0, 161 / 1000, 327 / 1000, 9 / 10], rtol=1e-15
    )
    # Those of the embedded solution as LLNL/sundials corrected them (pull
    # request 850).
    b_hat = [
        0.09468075576583945,
        0.009183565540343254,
        0.4877705284247616,
        1.234297566930479,
        -2.7077123499835256,
        1.866628418170587,
        1 / 66,
    ]
    np.testing.assert_allclose(
        np.subtract(tableau.b, tableau.b_error), b_hat, rtol=1e-14
    )


HEUN = {"order": 2, "c": (0, 1), "a": ((), (1,)), "b": (0.5, 0.5)}
# Heun's method with the embedded Euler method, first same as last.
PAIR = {
    "order": 2,
    "c": (0, 1, 1),
    "a": ((), (1,), (0.5, 0.5)),
    "b": (0.5, 0.5, 0),
    "b_error": (-0.5, 0.5, 0),
    "error_order": 1,
}
DENSE = {"b_dense": ((1, -0.5), (0, 0.5)), "dense_order": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (HEUN | {"c": (0, 1, 1)}, "`a` must have one row for each node"),
        (HEUN | {"a": ((), (1, 0))}, "row `i` having `i` entries"),
        (HEUN | {"b": (0.5, 0.25, 0.25)}, "`b` must have one weight for each"),
        (HEUN | {"b": ()}, "`b` must have one weight for each main stage"),
        (HEUN | {"c": (0, 0.9)}, r"must sum to its node in `c`.*a\[1\]=\(1,\)"),
        (HEUN | {"c": (0.1, 1)}, r"must sum to its node in `c`.*c\[0\]=0.1"),
        (HEUN | {"b": (0.5, 0.6)}, r"`b` must sum to 1.*b=\(0.5, 0.6\)"),
        (HEUN | {"b": (0.5, math.nan)}, "`b` must sum to 1"),
        (PAIR | {"error_order": None}, "`b_error` and `error_order` must be"),
        (PAIR | {"b_error": None}, "`b_error` and `error_order` must be"),
        (
            HEUN | {"b_error_damping": (-0.5, 0.5)},
            "`b_error_damping` corrects `b_error` and must come with it",
        ),
        (
            HEUN | {"b_error": (-0.5, 0.5), "error_order": 1},
            "must be the derivative at the end of the step",
        ),
        (PAIR | {"b_error": (-0.5, 0.5)}, "`b_error` must have one weight"),
        (PAIR | {"b_error": (-0.5, 0.6, 0)}, "`b_error` must sum to 0"),
        (
            PAIR | {"b_error_damping": (-0.5, 0.5)},
            "`b_error_damping` must have one weight",
        ),
        (
            PAIR | {"b_error_damping": (-0.5, 0.6, 0)},
            "`b_error_damping` must sum to 0",
        ),
        (
            HEUN | DENSE | {"dense_order": None},
            "`b_dense` and `dense_order` must be given together",
        ),
        (
            HEUN | DENSE | {"b_dense": None},
            "`b_dense` and `dense_order` must be given together",
        ),
        (
            HEUN | {"c": (0, 1, 0.5), "a": ((), (1,), (0.5, 0))},
            "Stages beyond those in `b` serve dense output",
        ),
        (
            HEUN | DENSE | {"b_dense": ((1, -0.5),)},
            "`b_dense` must have one row for each node in `c`",
        ),
        (
            HEUN | DENSE | {"b_dense": ((1, -0.5), (0.5,))},
            "`b_dense` must have one row .*, all of the same length",
        ),
        (
            HEUN | DENSE | {"b_dense": ((1, -0.5), (0, 0.6))},
            r"each row of `b_dense` must sum .* b_dense\[1\]=\(0, 0.6\)",
        ),
    ],
)
def test_wrong_coefficients_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"(?s){message}") as error:
        ButcherTableau(**arguments)
    assert "Received: " in str(error.value)


@pytest.mark.parametrize("arguments", [HEUN, PAIR, HEUN | DENSE])
def test_right_coefficients_are_accepted(arguments):
    tableau = ButcherTableau(**arguments)
    assert tableau.fsal == ("b_error" in arguments)


@pytest.mark.parametrize("error", [1e-6, -1e-6])
@pytest.mark.parametrize("name", ["b", "c", "b_error", "b_dense"])
@each_pair
def test_perturbed_coefficients_are_refused(method, name, error):
    arguments = dict(vars(method.tableau))
    values = arguments[name]
    if name == "b_dense":
        changed = (values[0][0] + error, *values[0][1:])
    else:
        changed = values[0] + error
    arguments[name] = (changed, *values[1:])
    with pytest.raises(ValueError, match="Received: "):
        ButcherTableau(**arguments)

"""The explicit Runge-Kutta methods: data only, see `ExplicitRungeKutta`."""

import keras

from keras_node.solvers import dop853_coefficients
from keras_node.solvers.runge_kutta import ExplicitRungeKutta
from keras_node.solvers.tableau import ButcherTableau


@keras.saving.register_keras_serializable(package="keras_node")
class Euler(ExplicitRungeKutta):
    """Explicit Euler method: order 1, one stage, no error estimate.

    Takes `y1 = y0 + dt * f(t0, y0)`: one residual block for each step.

    Args:
        **kwargs: The arguments of `ExplicitRungeKutta`; without an error
            estimate it is `step_size` that matters.

    Reference:
    - [Hairer, Nørsett & Wanner, 1993, Sec. I.7](https://doi.org/10.1007/978-3-540-78862-1)
    """

    citations = ("hairer1993",)
    tableau = ButcherTableau(order=1, c=(0,), a=((),), b=(1,))


@keras.saving.register_keras_serializable(package="keras_node")
class Midpoint(ExplicitRungeKutta):
    """Explicit midpoint rule: order 2, two stages, no error estimate.

    Takes `y1 = y0 + dt * f(t0 + dt / 2, y0 + dt / 2 * f(t0, y0))`.

    Args:
        **kwargs: The arguments of `ExplicitRungeKutta`; without an error
            estimate it is `step_size` that matters.

    Reference:
    - [Hairer, Nørsett & Wanner, 1993, Sec. II.1](https://doi.org/10.1007/978-3-540-78862-1)
    """

    citations = ("hairer1993",)
    tableau = ButcherTableau(order=2, c=(0, 1 / 2), a=((), (1 / 2,)), b=(0, 1))


@keras.saving.register_keras_serializable(package="keras_node")
class Heun(ExplicitRungeKutta):
    """Explicit trapezoidal rule: order 2, two stages, no error estimate.

    Takes `y1 = y0 + dt / 2 * (k1 + k2)` with `k1 = f(t0, y0)` and
    `k2 = f(t0 + dt, y0 + dt * k1)`.

    Args:
        **kwargs: The arguments of `ExplicitRungeKutta`; without an error
            estimate it is `step_size` that matters.

    Reference:
    - [Hairer, Nørsett & Wanner, 1993, Sec. II.1](https://doi.org/10.1007/978-3-540-78862-1)
    """

    citations = ("hairer1993",)
    tableau = ButcherTableau(order=2, c=(0, 1), a=((), (1,)), b=(1 / 2, 1 / 2))


@keras.saving.register_keras_serializable(package="keras_node")
class RK4(ExplicitRungeKutta):
    """Classical Runge-Kutta method: order 4, four stages, no error estimate.

    Args:
        **kwargs: The arguments of `ExplicitRungeKutta`; without an error
            estimate it is `step_size` that matters.

    Reference:
    - [Hairer, Nørsett & Wanner, 1993, Table II.1.2](https://doi.org/10.1007/978-3-540-78862-1)
    """

    citations = ("hairer1993",)
    tableau = ButcherTableau(
        order=4,
        c=(0, 1 / 2, 1 / 2, 1),
        a=((), (1 / 2,), (0, 1 / 2), (0, 0, 1)),
        b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    )


@keras.saving.register_keras_serializable(package="keras_node")
class Bosh3(ExplicitRungeKutta):
    """Bogacki-Shampine 3(2) pair: cheap steps at loose tolerances.

    Order 3 with an embedded solution of order 2. Four stages, first same as
    last: three evaluations per step. Dense output of order 3 (cubic Hermite).

    Args:
        **kwargs: The arguments of `ExplicitRungeKutta`; the tolerances `rtol`
            and `atol` matter most.

    Reference:
    - [Bogacki & Shampine, 1989](https://doi.org/10.1016/0893-9659(89)90079-7)
    """

    citations = ("bogacki1989",)
    tableau = ButcherTableau(
        order=3,
        c=(0, 1 / 2, 3 / 4, 1),
        a=((), (1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        b=(2 / 9, 1 / 3, 4 / 9, 0),
        b_error=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
        error_order=2,
        b_dense=(
            (1, -4 / 3, 5 / 9),
            (0, 1, -2 / 3),
            (0, 4 / 3, -8 / 9),
            (0, -1, 1),
        ),
        dense_order=3,
    )


@keras.saving.register_keras_serializable(package="keras_node")
class Dopri5(ExplicitRungeKutta):
    """Dormand-Prince 5(4) pair, the method of MATLAB's `ode45`.

    Order 5 with an embedded solution of order 4. Seven stages, first same as
    last: six evaluations per step. Shampine's dense output of order 4.

    Args:
        **kwargs: The arguments of `ExplicitRungeKutta`; the tolerances `rtol`
            and `atol` matter most.

    Reference:
    - [Dormand & Prince, 1980](https://doi.org/10.1016/0771-050X(80)90013-3)
    - [Shampine, 1986](https://doi.org/10.1090/S0025-5718-1986-0815836-3)
    """

    citations = ("dormand1980", "shampine1986")

    # fmt: off
    tableau = ButcherTableau(
        order=5,
        c=(0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
        a=(
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        b=(35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0),
        b_error=(
            71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525,
            -1 / 40,
        ),
        error_order=4,
        b_dense=(
            (1, -8048581381 / 2820520608, 8663915743 / 2820520608,
             -12715105075 / 11282082432),
            (0, 0, 0, 0),
            (0, 131558114200 / 32700410799, -68118460800 / 10900136933,
             87487479700 / 32700410799),
            (0, -1754552775 / 470086768, 14199869525 / 1410260304,
             -10690763975 / 1880347072),
            (0, 127303824393 / 49829197408, -318862633887 / 49829197408,
             701980252875 / 199316789632),
            (0, -282668133 / 205662961, 2019193451 / 616988883,
             -1453857185 / 822651844),
            (0, 40617522 / 29380423, -110615467 / 29380423,
             69997945 / 29380423),
        ),
        dense_order=4,
    )
    # fmt: on


@keras.saving.register_keras_serializable(package="keras_node")
class Tsit5(ExplicitRungeKutta):
    """Tsitouras 5(4) pair: the default, smaller error terms than `Dopri5`.

    Order 5 with an embedded solution of order 4. Seven stages, first same as
    last: six evaluations per step. Free dense output of order 4.

    Args:
        **kwargs: The arguments of `ExplicitRungeKutta`; the tolerances `rtol`
            and `atol` matter most.

    Reference:
    - [Tsitouras, 2011](https://doi.org/10.1016/j.camwa.2011.06.002)
    """

    citations = ("tsitouras2011",)

    # Table 1 of the paper prints `b_error` where it says b-hat, and its last
    # entry with the wrong sign (LLNL/sundials, pull request 850). `b_dense` is
    # the paper's, multiplied out; with rows 2 and 7 as printed, the order
    # conditions determine the others, which removed rounding of size 1e-16.
    # fmt: off
    tableau = ButcherTableau(
        order=5,
        c=(0, 0.161, 0.327, 0.9, 0.9800255409045097, 1, 1),
        a=(
            (),
            (0.161,),
            (-0.008480655492356989, 0.335480655492357),
            (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
            (5.325864828439257, -11.748883564062828, 7.4955393428898365,
             -0.09249506636175525),
            (5.86145544294642, -12.92096931784711, 8.159367898576159,
             -0.071584973281401, -0.028269050394068383),
            (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742,
             -3.290069515436081, 2.324710524099774),
        ),
        b=(
            0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742,
            -3.290069515436081, 2.324710524099774, 0,
        ),
        b_error=(
            0.0017800110522257714, 0.0008164344596567469,
            -0.007880878010261995, 0.1447110071732629, -0.5823571654525552,
            0.45808210592918697, -1 / 66,
        ),
        error_order=4,
        b_dense=(
            (1, -2.763706197274826, 2.9132554618219126, -1.0530884977290216),
            (0, 0.1317, -0.2234, 0.1017),
            (0, 3.9302962368947516, -5.941033872131505, 2.490627285651253),
            (0, -12.411077166933676, 30.33818863028232, -16.548102889244902),
            (0, 37.50931341651104, -88.1789048947664, 47.37952196281928),
            (0, -27.896526289197286, 65.09189467479366, -34.87065786149661),
            (0, 1.5, -4, 2.5),
        ),
        dense_order=4,
    )
    # fmt: on


@keras.saving.register_keras_serializable(package="keras_node")
class Dopri8(ExplicitRungeKutta):
    """Hairer's DOP853, after Dormand and Prince: for tight tolerances.

    Order 8 with two embedded solutions, of order 5 and 3, for one error
    estimate. Thirteen stages, first same as last: twelve evaluations per step,
    three more for dense output of order 7. Not the 8(7) pair of 1981.

    Args:
        **kwargs: The arguments of `ExplicitRungeKutta`; the tolerances `rtol`
            and `atol` matter most.

    Reference:
    - [Hairer, Nørsett & Wanner, 1993, Sec. II.5, II.6 and II.10](https://doi.org/10.1007/978-3-540-78862-1)
    """

    citations = ("hairer1993",)
    tableau = ButcherTableau(
        order=8,
        c=dop853_coefficients.C,
        a=dop853_coefficients.A,
        b=dop853_coefficients.B,
        b_error=dop853_coefficients.B_ERROR,
        error_order=5,
        b_error_damping=dop853_coefficients.B_ERROR_DAMPING,
        b_dense=dop853_coefficients.B_DENSE,
        dense_order=7,
    )

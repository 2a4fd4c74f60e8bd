"""The Rosenbrock methods: data only, see `Rosenbrock`."""

import math

import keras

from keras_node.solvers.rosenbrock import Rosenbrock, RosenbrockTableau

_D = 1 / (2 + math.sqrt(2))
_E32 = 6 + math.sqrt(2)


@keras.saving.register_keras_serializable(package="keras_node")
class Rosenbrock23(Rosenbrock):
    """Shampine's 2(3) pair for stiff dynamics, MATLAB's `ode23s`.

    Order 2 with an error estimate of order 3, L-stable. Three stages, first
    same as last: two evaluations, a Jacobian and a matrix per step. Dense
    output of order 2. For loose tolerances, above about 1e-3. A state with a
    batch axis and others is a batch of systems, which must not interact.

    Args:
        **kwargs: The arguments of `Rosenbrock`; the tolerances `rtol` and
            `atol` matter most.

    Reference:
    - [Shampine & Reichelt, 1997](https://doi.org/10.1137/S1064827594276424)
    """

    citations = ("shampine1997",)

    # Its k3 is in the standard form with gamma_31 = d (e32 - 2) and
    # gamma_32 = -d e32.
    tableau = RosenbrockTableau.from_standard(
        alpha=((0, 0, 0), (1 / 2, 0, 0), (0, 1, 0)),
        gamma=((_D, 0, 0), (-_D, _D, 0), (_D * (_E32 - 2), -_D * _E32, _D)),
        b=(0, 1, 0),
        b_error=(-1 / 6, 1 / 3, -1 / 6),
        b_dense=(
            (1 / (1 - 2 * _D), -1 / (1 - 2 * _D)),
            (-2 * _D / (1 - 2 * _D), 1 / (1 - 2 * _D)),
            (0, 0),
        ),
        order=2,
        control_order=3,
        dense_order=2,
    )


# Rows of the published dense output: with `k_r = sum_i H_ri u_i`,
# y(theta) = (1 - theta) y0 + theta (y1 + (1 - theta) (k1 + theta (k2
#     + theta k3))).
_H = (
    (
        25.948786856663858, -2.5579724845846235, 10.433815404888879,
        -2.3679251022685204, 0.524948541321073, 1.1241088310450404,
        0.4272876194431874, -0.17202221070155493,
    ),
    (
        -9.91568850695171, -0.9689944594115154, 3.0438037242978453,
        -24.495224566215796, 20.176138334709044, 15.98066361424651,
        -6.789040303419874, -6.710236069923372,
    ),
    (
        11.419903575922262, 2.8879645146136994, 72.92137995996029,
        80.12511834622643, -52.072871366152654, -59.78993625266729,
        -0.15582684282751913, 4.883087185713722,
    ),
)  # fmt: skip
_A6 = (
    -7.502846399306121, 2.561846144803919, -11.627539656261098,
    -0.18268767659942256, 0.030198172008377946,
)  # fmt: skip
_B = (*_A6, 1.0, 1.0, 1.0)


@keras.saving.register_keras_serializable(package="keras_node")
class Rodas5P(Rosenbrock):
    """Steinebach's 5(4) method for stiff dynamics: the choice for most.

    Order 5 with an embedded solution of order 4, stiffly accurate, L-stable.
    Eight stages: eight evaluations, a Jacobian and a matrix per step. Dense
    output of order 4, made for stiff dynamics. Between about 1e-8 and 1e-2. A
    state with a batch axis and others is a batch of systems, which must not
    interact.

    Args:
        **kwargs: The arguments of `Rosenbrock`; the tolerances `rtol` and
            `atol` matter most.

    Reference:
    - [Steinebach, 2023](https://doi.org/10.1007/s10543-023-00967-x)
    """

    citations = ("steinebach2023",)

    # As printed in OrdinaryDiffEq.jl, which the author contributed to.
    # fmt: off
    tableau = RosenbrockTableau(
        order=5,
        gamma=0.21193756319429014,
        c=(0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716,
           0.4288403609558664, 1, 1, 1),
        d=(0.21193756319429014, -0.42387512638858027, -0.3384627126235924,
           1.8046452872882734, 2.325825639765069, 0, 0, 0),
        a=(
            (),
            (3.0,),
            (2.849394379747939, 0.45842242204463923),
            (-6.954028509809101, 2.489845061869568, -10.358996098473584),
            (2.8029986275628964, 0.5072464736228206, -0.3988312541770524,
             -0.04721187230404641),
            _A6,
            (*_A6, 1.0),
            (*_A6, 1.0, 1.0),
        ),
        C=(
            (),
            (-14.155112264123755,),
            (-17.97296035885952, -2.859693295451294),
            (147.12150275711716, -1.41221402718213, 71.68940251302358),
            (165.43517024871676, -0.4592823456491126, 42.90938336958603,
             -5.961986721573306),
            (24.854864614690072, -3.0009227002832186, 47.4931110020768,
             5.5814197821558125, -0.6610691825249471),
            (30.91273214028599, -3.1208243349937974, 77.79954646070892,
             34.28646028294783, -19.097331116725623, -28.087943162872662),
            (37.80277123390563, -3.2571969029072276, 112.26918849496327,
             66.9347231244047, -40.06618937091002, -54.66780262877968,
             -9.48861652309627),
        ),
        b=_B,
        b_error=(0, 0, 0, 0, 0, 0, 0, 1.0),
        b_dense=tuple(
            # The powers of theta (b + (1 - theta)(h1 + theta (h2 + theta h3))).
            (b + h1, h2 - h1, h3 - h2, -h3)
            for b, h1, h2, h3 in zip(_B, *_H, strict=True)
        ),
        control_order=5,
        dense_order=4,
    )
    # fmt: on

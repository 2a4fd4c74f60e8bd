"""A callback that sets the tolerances of a model's solvers."""

import keras

from keras_node.callbacks.adjustable_tolerances import AdjustableTolerances
from keras_node.common.arguments import is_positive


class ToleranceSchedule(keras.callbacks.Callback):
    """Sets the tolerances of a model's solvers, without tracing it again.

    All adaptive solvers of keras_node in the model get the same tolerances:
    those of the epoch in training, and optionally others in validation,
    `evaluate` and `predict`. `history` keeps those of training as `rtol` and
    `atol`.

    After training the solvers keep those of evaluation, if there are any, or
    else the last ones.

    Args:
        rtol: Positive float, or a callable from the epoch, counted from 0, to
            one; `None` (default) leaves that of each solver.
        atol: The same for the absolute tolerance, in the units of the state.
        evaluation_rtol: Positive float, the relative tolerance outside
            training; `None` (default) for that of the epoch.
        evaluation_atol: The same for the absolute tolerance.

    Raises:
        ValueError: If a tolerance is not positive, or none is given; in `fit`,
            if the model has no adaptive solver of keras_node.

    Example:
    >>> schedule = keras_node.callbacks.ToleranceSchedule(
    ...     rtol=lambda epoch: 1e-2 * 0.5**epoch, evaluation_rtol=1e-5
    ... )
    >>> model = keras.Sequential(
    ...     [keras_node.ODELayer(keras.layers.Dense(2, "tanh"))]
    ... )
    >>> model.compile("adam", "mse")
    >>> x = np.ones((8, 2))
    >>> history = model.fit(
    ...     x, x, epochs=3, callbacks=[schedule], verbose=0
    ... )
    >>> history.history["rtol"]
    [0.01, 0.005, 0.0025]
    """

    def __init__(
        self, rtol=None, atol=None, evaluation_rtol=None, evaluation_atol=None
    ):
        super().__init__()
        arguments = {
            "rtol": rtol,
            "atol": atol,
            "evaluation_rtol": evaluation_rtol,
            "evaluation_atol": evaluation_atol,
        }
        for name, value in arguments.items():
            is_function = callable(value) and not name.startswith("evaluation")
            if value is not None and not is_function:
                _check_tolerance(name, value)
        if all(value is None for value in arguments.values()):
            raise ValueError(
                "A `ToleranceSchedule` must set a tolerance, such as "
                f"`ToleranceSchedule(rtol=1e-3)`. Received: {arguments}"
            )
        self.rtol = rtol
        self.atol = atol
        self.evaluation_rtol = evaluation_rtol
        self.evaluation_atol = evaluation_atol
        self._is_training = False
        self._kept = None

    def set_model(self, model):
        super().set_model(model)
        self._tolerances = AdjustableTolerances(model)

    def on_train_begin(self, logs=None):
        self._is_training = True

    def on_epoch_begin(self, epoch, logs=None):
        self._current = {
            "rtol": _at(epoch, "rtol", self.rtol),
            "atol": _at(epoch, "atol", self.atol),
        }
        self._tolerances.set(**self._current)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs.update({k: v for k, v in self._current.items() if v})

    def on_train_end(self, logs=None):
        self._is_training = False
        self._tolerances.set(self.evaluation_rtol, self.evaluation_atol)
        self._tolerances.freeze()

    def on_test_begin(self, logs=None):
        self._kept = self._tolerances.values()
        self._tolerances.set(self.evaluation_rtol, self.evaluation_atol)

    def on_test_end(self, logs=None):
        self._tolerances.restore(self._kept)
        if not self._is_training:
            self._tolerances.freeze()

    on_predict_begin = on_test_begin
    on_predict_end = on_test_end


def _check_tolerance(name, value):
    if not is_positive(value):
        raise ValueError(
            f"`{name}` must be a positive float. Received: {name}={value!r}"
        )


def _at(epoch, name, tolerance):
    """Returns the tolerance of an epoch, or `None`."""
    if callable(tolerance):
        tolerance = float(tolerance(epoch))
        _check_tolerance(name, tolerance)
    return tolerance

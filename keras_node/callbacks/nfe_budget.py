"""Callback that bounds the number of function evaluations."""

import warnings

from keras_node.callbacks.adjustable_tolerances import AdjustableTolerances
from keras_node.callbacks.nfe_means import NFECallback
from keras_node.common.arguments import check_among, is_positive

_LARGEST_RTOL = 0.1


class NFEBudget(NFECallback):
    """Keeps the cost of a solve within bounds, as dynamics become harder.

    Checks the mean number of evaluations of the forward solves of each layer,
    and acts if the largest is above `max_nfe`:

    - `"warn"` warns;
    - `"stop"` warns, and ends training after this epoch, or batch;
    - `"loosen"` multiplies `rtol` and `atol` of all adaptive solvers by
      `(nfe / max_nfe)**5`, which a method of order 5 needs, but by at least 2
      and at most 10. Once an `rtol` is 0.1, it warns instead. Nothing is
      traced again; the solvers keep the last tolerances.

    Args:
        max_nfe: Positive number, of evaluations in a forward solve.
        action: `"warn"` (default), `"stop"` or `"loosen"`.
        frequency: `"epoch"` (default), or a positive integer: after how many
            batches to check.

    Raises:
        ValueError: If an argument is out of its range; in `fit`, if the model
            counts no evaluations, or has nothing to loosen.

    Example:
    >>> budget = keras_node.callbacks.NFEBudget(100, action="loosen")
    >>> budget.max_nfe
    100
    """

    def __init__(self, max_nfe, action="warn", frequency="epoch"):
        super().__init__(frequency)
        if not is_positive(max_nfe):
            raise ValueError(
                "`max_nfe` must be a positive number of evaluations. "
                f"Received: max_nfe={max_nfe!r}"
            )
        check_among(action, "action", ("loosen", "stop", "warn"))
        self.max_nfe = max_nfe
        self.action = action
        self._tolerances = None

    def set_model(self, model):
        super().set_model(model)
        if self.action == "loosen":
            self._tolerances = AdjustableTolerances(model)

    def on_nfe(self, epoch, means):
        forward = {
            name: value
            for name, value in means.items()
            if name.endswith("nfe") and not name.startswith("val_")
        }
        name = max(forward, key=forward.get)
        if not forward[name] > self.max_nfe:
            return
        if self.action == "stop":
            self.model.stop_training = True
        if self.action == "loosen" and self._loosen(forward[name]):
            return
        warnings.warn(
            f"{name} is {forward[name]:.1f} in epoch {epoch}, above the budget "
            f"of {self.max_nfe} evaluations. Loosen the tolerances, add a "
            "regularizer such as `KineticEnergy`, or raise `max_nfe`.",
            stacklevel=2,
        )

    def on_train_end(self, logs=None):
        if self._tolerances is not None:
            self._tolerances.freeze()

    def _loosen(self, nfe):
        """Loosens the tolerances; returns whether that was possible."""
        factor = min(max((nfe / self.max_nfe) ** 5, 2.0), 10.0)
        old = self._tolerances.values()
        largest = max(rtol for rtol, _ in old)
        factor = min(factor, _LARGEST_RTOL / largest)
        if factor <= 1:
            return False
        self._tolerances.restore([(factor * r, factor * a) for r, a in old])
        return True

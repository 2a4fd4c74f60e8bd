"""Mean numbers of function evaluations, for callbacks."""

import keras

from keras_node.common.arguments import is_positive_integer


class NFECallback(keras.callbacks.Callback):
    """Base class of callbacks that get the numbers of function evaluations.

    Args:
        frequency: `"epoch"`, or a positive integer, how many batches to take
            a mean over.
    """

    def __init__(self, frequency):
        super().__init__()
        if frequency != "epoch" and not is_positive_integer(frequency):
            raise ValueError(
                '`frequency` must be "epoch" or a positive integer, a number '
                f"of batches. Received: frequency={frequency!r}"
            )
        self.frequency = frequency
        self._step = 0

    def on_nfe(self, epoch, means):
        """Gets the mean of each metric since the previous call."""
        raise NotImplementedError

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._count, self._sums = 0, {}
        self._first_step = self._step

    def on_train_batch_end(self, batch, logs=None):
        count = batch + 1
        self._step = self._first_step + count
        if self.frequency == "epoch" or count - self._count < self.frequency:
            return
        # The logs are means since the epoch began.
        sums = {k: v * count for k, v in nfe_in(logs).items()}
        new = count - self._count
        means = {k: (v - self._sums.get(k, 0)) / new for k, v in sums.items()}
        self._count, self._sums = count, sums
        self.on_nfe(self._epoch, means)

    def on_epoch_end(self, epoch, logs=None):
        if self.frequency == "epoch":
            self.on_nfe(epoch, nfe_in(logs))


def nfe_in(logs):
    """Returns the counts among the logs of training."""
    counts = {
        name: float(value)
        for name, value in (logs or {}).items()
        if name.endswith(("nfe", "nfe_backward"))
    }
    if not counts:
        raise ValueError(
            "The model must have a layer of keras_node that solves an ODE and "
            f"counts its evaluations. Received: metrics {sorted(logs or {})}"
        )
    return counts

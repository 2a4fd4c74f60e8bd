"""Callbacks that watch the numbers of function evaluations."""

import csv
import importlib.util
import warnings

import keras
import tensorflow as tf

from keras_node.callbacks.adjustable_tolerances import AdjustableTolerances
from keras_node.common.arguments import (
    check_among,
    is_positive,
    is_positive_integer,
)

_LARGEST_RTOL = 0.1


class _NFECallback(keras.callbacks.Callback):
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
        sums = {k: v * count for k, v in _nfe_in(logs).items()}
        new = count - self._count
        means = {k: (v - self._sums.get(k, 0)) / new for k, v in sums.items()}
        self._count, self._sums = count, sums
        self.on_nfe(self._epoch, means)

    def on_epoch_end(self, epoch, logs=None):
        if self.frequency == "epoch":
            self.on_nfe(epoch, _nfe_in(logs))


class NFELogger(_NFECallback):
    """Writes the numbers of function evaluations to TensorBoard and CSV.

    The columns of the CSV file are `epoch`; `step`, the batches since training
    began; and the metrics of the model, such as `<layer name>_nfe` and
    `<layer name>_nfe_backward`, each a mean over the batches since the
    previous row. With `frequency="epoch"`, there are also those of validation,
    `val_...`.

    Args:
        log_dir: String, directory for TensorBoard, or `None` (default).
        filename: String, the CSV file, or `None` (default). An existing one is
            replaced.
        frequency: `"epoch"` (default), or a positive integer: the number of
            batches between two rows.

    Raises:
        ImportError: If there is a `log_dir` and TensorBoard is missing.
        ValueError: If neither a directory nor a file is given, or `frequency`
            is out of range; in `fit`, if the model counts no evaluations.

    Example:
    >>> logger = keras_node.callbacks.NFELogger(filename="nfe.csv")
    >>> logger.frequency
    'epoch'
    """

    def __init__(self, log_dir=None, filename=None, frequency="epoch"):
        super().__init__(frequency)
        if log_dir is None and filename is None:
            raise ValueError(
                "An `NFELogger` must have a `log_dir` for TensorBoard, or a "
                f"`filename` for CSV. Received: {log_dir=}, {filename=}"
            )
        if log_dir is not None and not importlib.util.find_spec("tensorboard"):
            raise ImportError(
                "`log_dir` needs TensorBoard: pip install tensorboard. "
                f"Received: {log_dir=}"
            )
        self.log_dir = log_dir
        self.filename = filename

    def on_train_begin(self, logs=None):
        self._step = 0
        self._file = self._table = self._board = None
        if self.filename is not None:
            self._file = open(self.filename, "w", newline="")
        if self.log_dir is not None:
            self._board = tf.summary.create_file_writer(str(self.log_dir))

    def on_nfe(self, epoch, means):
        row = {"epoch": epoch, "step": self._step, **means}
        if self._file is not None:
            if self._table is None:
                self._table = csv.DictWriter(self._file, list(row))
                self._table.writeheader()
            self._table.writerow(row)
            self._file.flush()
        if self._board is not None:
            with self._board.as_default(step=self._step):
                for name, value in means.items():
                    tf.summary.scalar(name, value)

    def on_train_end(self, logs=None):
        for target in (self._file, self._board):
            if target is not None:
                target.close()


class NFEBudget(_NFECallback):
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


def _nfe_in(logs):
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

"""Callback that logs the numbers of function evaluations."""

import csv
import importlib.util

import tensorflow as tf

from keras_node.callbacks.nfe_means import NFECallback


class NFELogger(NFECallback):
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

"""A callback that lets the horizon of a training grow."""

import keras
import tensorflow as tf

from keras_node.common.arguments import is_positive_integer


class GrowHorizon(keras.callbacks.Callback):
    """Trains on the first times of trajectories, then on more and more.

    Where a trajectory is long, a network first learns its mean: a phase that
    is a little wrong costs as much as one that is all wrong. Over a short
    horizon it does not. The loss of this callback sees the first `n` times,

        n = start + (num_times - start) min(epoch / num_epochs, 1)

    in training, and all of them in validation and `evaluate`. `history` keeps
    `n` as `horizon`. Nothing is traced again; the solve still reaches the last
    time, where it may fail unless the solver has `on_failure="nan"`.

    Args:
        num_times: Integer, at least 2, the number of times in a trajectory.
        start: Integer, the number of times at first.
        num_epochs: Integer, the epochs until the horizon is full.

    Raises:
        ValueError: If an argument is not a positive integer, or `start` is
            beyond `num_times`.

    Example:
    >>> times = np.linspace(0.0, 1.0, 5)
    >>> horizon = keras_node.callbacks.GrowHorizon(5, start=2, num_epochs=3)
    >>> model = keras.Sequential(
    ...     [
    ...         keras_node.ODELayer(
    ...             keras.layers.Dense(2), times, return_sequences=True
    ...         )
    ...     ]
    ... )
    >>> model.compile("adam", horizon.loss("mse"))
    >>> history = model.fit(
    ...     np.ones((8, 2)),
    ...     np.ones((8, 5, 2)),
    ...     epochs=4,
    ...     callbacks=[horizon],
    ...     verbose=0,
    ... )
    >>> history.history["horizon"]
    [2, 3, 4, 5]
    """

    def __init__(self, num_times, start, num_epochs):
        super().__init__()
        arguments = {
            "num_times": num_times,
            "start": start,
            "num_epochs": num_epochs,
        }
        for name, value in arguments.items():
            if not is_positive_integer(value):
                raise ValueError(
                    f"`{name}` must be a positive integer. "
                    f"Received: {name}={value!r}"
                )
        if not start <= num_times:
            raise ValueError(
                "`start` must be at most `num_times`. "
                f"Received: start={start}, num_times={num_times}"
            )
        self.num_times = int(num_times)
        self.start = int(start)
        self.num_epochs = int(num_epochs)
        self._horizon = tf.Variable(
            self.num_times, trainable=False, dtype=tf.int32, name="horizon"
        )
        self._current = self.num_times

    def loss(self, loss):
        """Returns a loss of the times within the horizon.

        Args:
            loss: Keras loss identifier, of targets and predictions
                `(batch, num_times, ...)`.

        Returns:
            Function of targets and predictions, the mean over these times;
            for `compile`.
        """
        loss = keras.losses.get(loss)
        values_of = loss.call if isinstance(loss, keras.losses.Loss) else loss

        def within_horizon(y_true, y_pred):
            y_pred = tf.convert_to_tensor(y_pred)
            y_true = tf.cast(y_true, y_pred.dtype)
            fits = y_pred.shape.rank >= 3
            if not fits or y_pred.shape[1] not in (None, self.num_times):
                raise ValueError(
                    "Predictions must have the shape (batch, num_times, ...), "
                    "with at least three axes. "
                    f"Received: num_times={self.num_times}, predictions of "
                    f"shape {y_pred.shape}"
                )
            # What lies beyond may not be finite.
            values = self._seen(
                values_of(self._seen(y_true), self._seen(y_pred))
            )
            share = tf.cast(self._horizon / self.num_times, values.dtype)
            return values / share

        within_horizon.__name__ = "within_horizon"
        return within_horizon

    def _seen(self, values):
        """Returns `(batch, num_times, ...)`, 0 beyond the horizon."""
        is_seen = tf.range(self.num_times) < self._horizon
        is_seen = tf.reshape(is_seen, [1, -1] + [1] * (values.shape.rank - 2))
        return tf.where(is_seen, values, tf.zeros_like(values))

    def on_epoch_begin(self, epoch, logs=None):
        share = min(epoch / self.num_epochs, 1.0)
        growth = (self.num_times - self.start) * share
        self._current = self.start + round(growth)
        self._horizon.assign(self._current)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["horizon"] = self._current

    def on_train_end(self, logs=None):
        self._current = self.num_times
        self._horizon.assign(self.num_times)

    def on_test_begin(self, logs=None):
        self._horizon.assign(self.num_times)

    def on_test_end(self, logs=None):
        self._horizon.assign(self._current)

"""Training that goes on after an interruption, from its last epoch."""

import pathlib
import time

import keras


class Run:
    """One training: its log, an epoch a line, and its last saved model.

    The model is saved under the number of its epochs before the line is
    written, so that the two agree whenever the process ends. What an epoch
    reads must be a function of its number alone, and the model must draw no
    random numbers: after an interruption the result is then the same, up to
    rounding.

    Args:
        log: `Log` with the columns `run`, `epoch`, `epochs` and `seconds`, and
            those of `settings` and of `measure`.
        folder: Where models are saved; not to be committed.
        name: String, the name of the training in both.
        epochs: Integer, of the whole training: that of another length is
            another one.
        settings: Dict of what else stands in each line.
    """

    def __init__(self, log, folder, name, epochs, settings=None):
        self._log = log
        self._folder = pathlib.Path(folder)
        self._key = {"run": name, "epochs": epochs}
        self._name = f"{name}-{epochs}"
        self._epochs = epochs
        self._settings = settings or {}

    @property
    def num_epochs(self):
        """The number of epochs that are done."""
        return len(self._log.rows(**self._key))

    @property
    def is_done(self):
        """Whether the log has all epochs."""
        return self.num_epochs == self._epochs

    def fit(self, make_model, read, measure, stop=None, **options):
        """Trains to the end, and returns the model.

        Args:
            make_model: Function that returns a compiled model.
            read: Function of the number of an epoch, from 0, that returns the
                arguments of `fit`, a dict.
            measure: Function of the model and of the last epoch's history, a
                dict of numbers, that returns a dict for the log.
            stop: Integer, the epoch to stop before; `None` (default) for none.
            **options: Other arguments of `fit`.

        Raises:
            FileNotFoundError: The log has epochs whose model is not at hand.
        """
        model = self._restore(make_model)
        for epoch in range(self.num_epochs, stop or self._epochs):
            start = time.perf_counter()
            history = model.fit(
                **read(epoch),
                initial_epoch=epoch,
                epochs=epoch + 1,
                shuffle=False,
                verbose=0,
                **options,
            ).history
            seconds = time.perf_counter() - start
            last = {name: values[-1] for name, values in history.items()}
            line = {
                **self._key,
                "epoch": epoch + 1,
                "seconds": seconds,
                **self._settings,
                **measure(model, last),
            }
            self._save(model, epoch + 1)
            self._log.append(**line)
            self._path(epoch).unlink(missing_ok=True)
        return model

    def _restore(self, make_model):
        if not self.num_epochs:
            return make_model()
        path = self._path(self.num_epochs)
        if not path.exists():
            raise FileNotFoundError(
                f"The log has {self.num_epochs} epochs of {self._name}, whose "
                f"model is not at hand. Expected: {path}. Train it again with "
                "a log of its own (--logs)."
            )
        return keras.models.load_model(path)

    def _save(self, model, epoch):
        self._folder.mkdir(parents=True, exist_ok=True)
        new = self._folder / f"{self._name}.new.keras"
        model.save(new)
        new.replace(self._path(epoch))

    def _path(self, epoch):
        return self._folder / f"{self._name}.{epoch}.keras"

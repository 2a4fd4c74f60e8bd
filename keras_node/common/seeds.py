"""Seeds whose state is part of a model's weights file."""

import keras


class Seeds(keras.layers.Layer):
    """A `keras.random.SeedGenerator` that is saved with its model.

    Keras saves the weights of layers, not the state of generators: training
    that goes on from a file would see other noise than it would have without.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator()
        self.built = True

    def next(self):
        """Returns the next seed, integers `(2,)`."""
        return self.generator.next()

    def save_own_variables(self, store):
        store["state"] = keras.ops.convert_to_numpy(self.generator.state)

    def load_own_variables(self, store):
        self.generator.state.assign(store["state"])

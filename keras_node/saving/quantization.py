"""The quantization of layers that another layer makes for itself."""


class KeepsQuantization:
    """Mixin for Keras layers: a file keeps how the layers inside are quantized.

    Layers that are arguments have a config of their own, which says it. Those
    that `build` makes are as new when a file is read, and their weights of
    another kind than those in the file.
    """

    def _made_layers(self):
        """Returns the list of the layers that this one has made."""
        raise NotImplementedError

    def get_build_config(self):
        """Returns what `build_from_config` needs."""
        config = super().get_build_config()
        if config is None or not self.built:
            return config
        modes = [_mode_of(layer) for layer in self._made_layers()]
        return {**config, "quantization": modes} if any(modes) else config

    def build_from_config(self, config):
        """Builds as the result of `get_build_config` says."""
        modes = config.get("quantization")
        super().build_from_config(config)
        if modes:
            for layer, mode in zip(self._made_layers(), modes, strict=True):
                if mode is not None:
                    layer.quantize(mode)


def _mode_of(layer):
    return getattr(layer.dtype_policy, "quantization_mode", None)

"""Functions of a traced field, such as its derivatives, traced with it."""

import tensorflow as tf

from keras_node.dynamics import inlining


class TracedTransform:
    """A function of a traced field as one concrete function.

    Traced before the solve, which hides its operations from all tapes: those
    of the function itself have recorded by then.

    Args:
        field: `TracedField`.
        transform: Callable `(function, t, leaves)`, `function` being the field
            as a callable `(t, leaves) -> leaves`.
    """

    def __init__(self, field, transform):
        t, *others = [
            tf.TensorSpec(x.shape, x.dtype)
            for x in field.function.graph.inputs[: 1 + field.num_leaves]
        ]
        self._is_handle = [
            c.dtype in (tf.resource, tf.variant) for c in field.captures
        ]
        handles = field.captures
        specs = [tf.TensorSpec(c.shape, c.dtype) for c in self._values(handles)]

        def call(t, leaves, values):
            values = iter(values)
            captures = [
                handle if is_handle else next(values)
                for handle, is_handle in zip(
                    handles, self._is_handle, strict=True
                )
            ]
            return transform(field.recorded_with(captures), t, leaves)

        self._function = tf.function(
            call, autograph=False
        ).get_concrete_function(t, others, specs)

    def _values(self, captures):
        pairs = zip(captures, self._is_handle, strict=True)
        return [capture for capture, is_handle in pairs if not is_handle]

    def __call__(self, captures, t, leaves):
        """Returns the transform for values of the captures."""
        return self._function(t, leaves, self._values(captures))

    def recorded(self, captures, t, leaves):
        """Returns the same of operations that a tape can record under XLA."""
        if not inlining.is_needed_for(self._function.graph):
            return self(captures, t, leaves)
        handles = self._function.captured_inputs
        inputs = [t, *leaves, *self._values(captures), *handles]
        return inlining.inline(self._function, inputs)

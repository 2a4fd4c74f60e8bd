"""Private classes of TensorFlow Probability, each with the reason for its use.

As they are in TensorFlow Probability 0.25.
"""

from tensorflow_probability.python.internal import cache_util

# One solve gives value and log-det: this cache of a bijector keeps the
# attributes of a value, such as its log-det, whichever is asked for first.
GreedyBijectorCache = cache_util.BijectorCacheWithGreedyAttrs

"""Masks of missing observations."""

import tensorflow as tf


def masked_sum(log_prob, mask, axis):
    """Returns the sum of log-likelihoods over what a mask says is observed."""
    zeros = tf.zeros_like(log_prob)
    return tf.reduce_sum(tf.where(mask, log_prob, zeros), axis=axis)

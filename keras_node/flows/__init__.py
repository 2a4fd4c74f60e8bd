"""Continuous normalizing flows: the bijector and its model."""

"""Keras layers that solve, and those to build dynamics with."""

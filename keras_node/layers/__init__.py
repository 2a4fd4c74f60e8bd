"""Keras layers that solve ODEs, and layers to build dynamics from."""

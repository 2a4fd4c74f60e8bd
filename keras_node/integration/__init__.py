"""Differentiable solves, from dynamics and times to states."""

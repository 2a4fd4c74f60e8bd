"""One differentiable solve, from dynamics and times to states."""

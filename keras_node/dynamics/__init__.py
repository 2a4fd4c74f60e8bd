"""The vector field: how dynamics are called, checked, built and traced."""

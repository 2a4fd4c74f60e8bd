"""The vector field: calls, checks, building and tracing of dynamics."""

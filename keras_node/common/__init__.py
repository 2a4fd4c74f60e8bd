"""What two families need, and no more."""

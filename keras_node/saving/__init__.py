"""Configs, identifiers and SavedModels: what outlives the process."""

"""Configs, identifiers and SavedModels."""

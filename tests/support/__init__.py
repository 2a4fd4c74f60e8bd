"""Helpers of the tests, and a program that one of them starts."""

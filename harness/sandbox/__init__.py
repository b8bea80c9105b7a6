"""Runs code that nobody trusts: a training and a model server behind a wall, within limits."""

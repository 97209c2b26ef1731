"""Fitting models: losses, metrics, recipes, checkpoints."""

"""Smaller forms of a trained model, decoded inside its graph."""

"""From an exported graph to a SavedModel that TensorFlow Serving loads, and its certificate."""

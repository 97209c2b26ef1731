"""The outside world: object store, MLflow, TensorFlow Serving. Fakes ship beside the real thing."""

"""The TF-Serving-protocol server: store of model versions, session, gRPC and REST."""

"""Model definitions and the numpy shapes they read; torch is imported by the model files only."""

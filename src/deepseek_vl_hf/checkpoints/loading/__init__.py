"""Original checkpoints in transformers' Auto classes."""

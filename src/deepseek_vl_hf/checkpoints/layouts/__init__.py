"""The original layouts: tables of their tensors, and their small files."""

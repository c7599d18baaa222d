"""Tensors in files: where they lie, what becomes of them, and writing them."""

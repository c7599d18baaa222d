"""Conversion between the layouts: planned, written, verified."""

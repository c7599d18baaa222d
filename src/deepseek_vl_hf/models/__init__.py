"""One folder per family; families share functions, never classes."""

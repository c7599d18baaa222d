"""Task files of lmms-eval, which reads the YAML here and the functions that it names."""

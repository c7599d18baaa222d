"""DeepSeek-VL with one vision tower (1.3B): SigLIP, a two-layer aligner and Llama."""

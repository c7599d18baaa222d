"""DeepSeek-VL-Hybrid (7B): SigLIP at 384 pixels and SAM at 1024, joined by the aligner, and Llama."""

"""DeepSeek-VL2 (tiny, small, base): tiled SigLIP, a projector, and DeepSeek-MoE."""

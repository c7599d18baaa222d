"""DeepSeek-OCR: SAM and CLIP one after the other, a linear projector, and DeepSeek-MoE."""

"""DeepSeek-MoE: a language model with experts and latent attention, which any family may compose."""

"""Serving a model to OpenAI clients with engines that exist: transformers' server, and vLLM."""

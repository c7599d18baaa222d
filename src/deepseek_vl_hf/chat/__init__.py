"""Conversations that keep what was computed: the key/value cache and the pictures' embeddings."""

from .session import SAMPLING, Chat, Figures

__all__ = ["SAMPLING", "Chat", "Figures"]

"""Conversations that keep what was computed: the key/value cache and the pictures' embeddings."""

from .sampling import SAMPLING
from .session import Chat, Figures

__all__ = ["SAMPLING", "Chat", "Figures"]

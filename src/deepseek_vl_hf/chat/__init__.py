"""Conversations that keep what was computed: the key/value cache and the pictures' embeddings."""

from .figures import Figures
from .sampling import SAMPLING
from .session import Chat

__all__ = ["SAMPLING", "Chat", "Figures"]

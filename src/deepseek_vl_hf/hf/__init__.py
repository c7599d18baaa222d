"""The one room that touches what transformers, torch, torchao and accelerate do not promise to keep."""

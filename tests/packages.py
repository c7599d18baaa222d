"""Packages that importing this one must not load."""

FORBIDDEN = {"torchvision", "timm", "einops", "attrdict", "xformers"}
OPTIONAL = {"torchao", "peft", "vllm", "gradio", "starlette", "fastapi", "uvicorn", "openai"}

"""Packages that importing this one must not load."""

FORBIDDEN = {"torchvision", "timm", "einops", "attrdict", "xformers"}
OPTIONAL = {
    "torchao",
    "peft",
    "trl",
    "vllm",
    "gradio",
    "starlette",
    "fastapi",
    "uvicorn",
    "openai",
    "lmms_eval",
    "loguru",
}

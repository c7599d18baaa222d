"""Packages that importing this one must not load."""

FORBIDDEN = {"torchvision", "timm", "einops", "attrdict", "xformers"}
OPTIONAL = {
    "torchao",
    "peft",
    "trl",
    "vllm",
    "gradio",
    "textual_image",
    "pypdfium2",
    "starlette",
    "fastapi",
    "uvicorn",
    "openai",
    "lmms_eval",
    "loguru",
}

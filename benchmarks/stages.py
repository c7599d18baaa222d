"""What is timed stage by stage, as pairs of calls for the same; towers and pixels are those of DeepSeek-VL-Hybrid.

Only the pixels of its preprocessing differ between the two: transformers reduces 8-bit pictures where the original, and
we, reduce floats.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from deepseek_vl_hf.hf.versions import CACHE
from port import DEVICE, IMAGE_TOKENS, Implementation
from timing import Run

PICTURE_SIZE = (5014, 2004)
PROMPT_TOKENS = 620
QUESTION = "What is in this picture?"

Pair = dict[str, Implementation]
Runs = dict[str, Run]


def picture(size: tuple[int, int] = PICTURE_SIZE) -> Image.Image:
    """A picture of this width and height; what it shows makes no difference to any stage."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(noise)


def each(pair: Pair, make: Callable[[Implementation], Run]) -> Runs:
    """The same call for each implementation."""
    return {name: make(implementation) for name, implementation in pair.items()}


def preprocessing(pair: Pair, pictures: int) -> Runs:
    """Pictures in memory to normalized pixels in both resolutions."""
    images = [picture()] * pictures
    return each(pair, lambda one: lambda: one.processor.image_processor(images, return_tensors="pt"))


def pixels(pair: Pair, pictures: int = 1) -> dict[str, torch.Tensor]:
    """Random normalized pixels in both resolutions."""
    model = next(iter(pair.values())).model
    generator = torch.Generator().manual_seed(0)
    sides = {"pixel_values": 384, "high_res_pixel_values": 1024}
    return {
        name: torch.randn(pictures, 3, side, side, generator=generator).to(DEVICE, model.dtype)
        for name, side in sides.items()
    }


def sam(pair: Pair) -> Runs:
    """The high-resolution encoder with its neck, one picture."""
    values = pixels(pair)["high_res_pixel_values"]
    return each(pair, lambda one: lambda: one.model.model.high_res_vision_model(pixel_values=values))


def siglip(pair: Pair) -> Runs:
    """The low-resolution encoder, one picture."""
    values = pixels(pair)["pixel_values"]
    return each(pair, lambda one: lambda: one.model.model.vision_model(pixel_values=values))


def aligner(pair: Pair) -> Runs:
    """Features of both towers to image embeddings, one picture."""
    model = next(iter(pair.values())).model
    low, high = (torch.randn(1, IMAGE_TOKENS, 1024, dtype=model.dtype, device=DEVICE) for _ in range(2))
    return each(pair, lambda one: lambda: one.model.model.aligner(low, high))


def images(pair: Pair, pictures: int = 1) -> Runs:
    """Both towers, everything after them and the aligner."""
    values = pixels(pair, pictures)
    return each(pair, lambda one: lambda: one.model.model.get_image_features(**values, return_dict=True))


def prompt(tokens: int) -> torch.Tensor:
    """Random ids [1, tokens]: a token that only repeats itself would ask the same experts for the whole prompt."""
    return torch.randint(10, 1000, (1, tokens), generator=torch.Generator().manual_seed(0)).to(DEVICE)


def prefill(pair: Pair, tokens: int = PROMPT_TOKENS) -> Runs:
    """A prompt of text, up to the logits of its last token."""
    ids = prompt(tokens)
    return each(pair, lambda one: lambda: one.model(input_ids=ids, use_cache=True, logits_to_keep=1))


def decode(pair: Pair, tokens: int = PROMPT_TOKENS) -> Runs:
    """One token after the cache that `generate` makes of a prompt, and which grows with each call as in an answer."""
    ids = prompt(tokens)

    def make(one: Implementation) -> Run:
        cache = one.model.generate(
            input_ids=ids, max_new_tokens=1, do_sample=False, pad_token_id=0, return_dict_in_generate=True
        )[CACHE]

        return lambda: one.model(input_ids=ids[:, :1], **{CACHE: cache}, use_cache=True).logits

    return each(pair, make)


def first_token(pair: Pair, size: tuple[int, int] = PICTURE_SIZE) -> Runs:
    """From a picture in memory and a question to the first token of the answer."""
    conversation: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "image", "image": picture(size)}, {"type": "text", "text": QUESTION}]}
    ]

    def make(one: Implementation) -> Run:
        def run() -> torch.Tensor:
            inputs = one.processor.apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            ).to(one.model.device, one.model.dtype)
            return one.model.generate(**inputs, max_new_tokens=1, do_sample=False, pad_token_id=0)

        return run

    return each(pair, make)

"""The fixture folders: what the original code gave, beside the same checkpoint converted, for tests and benchmarks."""

import copy
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import PIL
import pytest
import torch
from packaging.version import Version
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

import deepseek_vl_hf  # noqa: F401 - registers the classes
from deepseek_vl_hf.checkpoints import convert_checkpoint

FIXTURES = Path(__file__).parent / "fixtures"
IMAGES = FIXTURES / "images"
VL_FAMILIES = ("vl", "vl_hybrid")
OCR = "deepseek_ocr"
WITH_ORIGINAL_CALLS = (*VL_FAMILIES, "vl2_mha")
FAMILIES = (*WITH_ORIGINAL_CALLS, OCR)
VL2_FAMILIES = ("vl2_mha", "vl2_mla", "vl2_sigmoid")  # as the sizes tiny, small and base
# Every kind of cache and router, for what generation and training promise.
CONTRACT_FAMILIES = (*FAMILIES, "vl2_sigmoid")


@dataclass
class FamilyFixture:
    """One family: an original checkpoint, the numbers that the original code gave for it, the converted checkpoint."""

    name: str
    converted: Path

    @property
    def original(self) -> Path:
        return FIXTURES / self.name / "checkpoint"

    @property
    def is_vl2(self) -> bool:
        return self.name.startswith("vl2")

    @property
    def is_ocr(self) -> bool:
        return self.name == OCR

    @property
    def has_experts(self) -> bool:
        """And pictures of different lengths, and a layout without preprocessor_config.json."""
        return self.is_vl2 or self.is_ocr

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored weights."""
        return torch.bfloat16 if self.has_experts else torch.float16

    @property
    def one_image(self) -> int:
        """A case with text in front of its one image, which has no tiles or two."""
        return 3 if self.has_experts else 2

    @cached_property
    def cases(self) -> dict[str, Any]:
        return json.loads((FIXTURES / self.name / "cases.json").read_text(encoding="utf-8"))

    @cached_property
    def expected(self) -> dict[str, torch.Tensor]:
        return load_file(FIXTURES / self.name / "expected.safetensors")

    @cached_property
    def conversations(self) -> list[list[dict[str, Any]]]:
        """In the original's message shape, with paths that can be opened.

        DeepSeek-OCR's original knows prompts alone, see `prompts`; here it has DeepSeek-VL2's conversations.
        """
        cases = FamilyFixture("vl2_mha", self.converted).cases if self.is_ocr else self.cases
        result = copy.deepcopy(cases["conversations"])
        if self.is_ocr:  # which has no system prompt
            result = [[turn for turn in each if turn["role"] != "system"] for each in result]
        for message in (message for conversation in result for message in conversation):
            if "images" in message:
                message["images"] = [str(IMAGES / name) for name in message["images"]]
        return result

    def has_the_fixtures_pixels(self, case: int) -> bool:
        """Whether the installed Pillow resizes a case's pictures as the one that the fixtures were made with, 13."""
        if Version(PIL.__version__).major >= 13:
            return True
        messages = self.prompts[case][0] if self.is_ocr else self.conversations[case]
        paths = [path for message in messages for path in message.get("images", [])]
        return not any(height > 3 * width for width, height in (Image.open(path).size for path in paths))

    def skip_other_pixels(self, case: int) -> None:
        """Skips a test of numbers that follow from the pixels of a case, where Pillow gives others."""
        if not self.has_the_fixtures_pixels(case):
            pytest.skip(f"Pillow {PIL.__version__} resizes tall pictures in another order than 13, the fixtures' one")

    @cached_property
    def processor(self) -> Any:
        return AutoProcessor.from_pretrained(self.converted)

    @cached_property
    def model(self) -> Any:
        """In float32; tests must not change it."""
        return self.load()

    def load(self, dtype: torch.dtype = torch.float32) -> Any:
        return AutoModelForImageTextToText.from_pretrained(self.converted, dtype=dtype).eval()

    def inputs(self, case: int) -> Any:
        """Model inputs of one case, made as a user makes them."""
        return self.processor.apply_chat_template(
            self.conversations[case], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )

    def picture(self, name: str) -> Path:
        """Of this family alone, or of all."""
        own = FIXTURES / self.name / "images" / name
        return own if own.is_file() else IMAGES / name

    @cached_property
    def prompts(self) -> list[tuple[list[dict[str, Any]], dict[str, Any]]]:
        """Of DeepSeek-OCR: each case as a conversation, and what the processor is told beside it."""
        found = []
        for case in self.cases["cases"]:
            message = {"role": "user", "content": case["prompt"]}
            if "image" in case:
                message["images"] = [str(self.picture(case["image"]))]
            found.append(([message], {"mode": case["mode"], "transparency": "drop"} if "mode" in case else {}))
        return found

    def pixels(self, case: int) -> dict[str, torch.Tensor]:
        """The image inputs of one case alone."""
        inputs = self.inputs(case)
        return {name: inputs[name] for name in self.processor.image_processor.model_input_names if name in inputs}

    def batch(self, rows: list[int]) -> Any:
        """The same of several cases, padded."""
        return self.processor.apply_chat_template(
            [self.conversations[case] for case in rows],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )


def convert_family(name: str, folder: Path) -> FamilyFixture:
    """Converts the family's checkpoint into `folder`."""
    family = FamilyFixture(name, folder / name)
    convert_checkpoint(family.original, family.converted)
    return family


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over largest expected magnitude."""
    return ((found.float() - expected).abs().max() / expected.abs().max()).item()

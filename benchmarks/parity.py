"""Measures how close the models come to numbers of the original code, and writes results/parity.json.

The tests assert tolerances; this writes the figures themselves down.
"""

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil
from transformers.models.deepseek_vl_hybrid.image_processing_pil_deepseek_vl_hybrid import (
    DeepseekVLHybridImageProcessorPil,
)

import deepseek_vl_hf  # noqa: F401 - registers the classes
from deepseek_vl_hf.checkpoints import convert_checkpoint
from environment import write_result

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures"
# Per family: its fixture, and the image processor of transformers' own port.
FAMILIES = {
    "deepseek_vl": ("vl", DeepseekVLImageProcessorPil),
    "deepseek_vl_hybrid": ("vl_hybrid", DeepseekVLHybridImageProcessorPil),
}


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over largest expected magnitude."""
    return ((found.float() - expected).abs().max() / expected.abs().max()).item()


def eight_bit(image_processor: Any, pictures: list[Image.Image]) -> np.ndarray:
    """The pixels before scaling, uint8 [images, 3, height, width]; of two resolutions the high one."""
    pixels = image_processor(pictures, do_rescale=False, do_normalize=False, return_tensors="np")
    return np.asarray(pixels.get("high_res_pixel_values", pixels["pixel_values"])).round().astype(np.uint8)


class Fixture:
    """One fixture folder: conversations, numbers of the original code, and the converted checkpoint."""

    def __init__(self, name: str, port_image_processor: Any, folder: Path) -> None:
        root = FIXTURES / name
        self.cases = json.loads((root / "cases.json").read_text(encoding="utf-8"))
        self.expected = load_file(root / "expected.safetensors")
        self.conversations = copy.deepcopy(self.cases["conversations"])
        for message in (message for conversation in self.conversations for message in conversation):
            if "images" in message:
                message["images"] = [str(FIXTURES / "images" / image) for image in message["images"]]
        self.port_image_processor = port_image_processor
        self.checkpoint = folder / name
        convert_checkpoint(root / "checkpoint", self.checkpoint, report=lambda line: None)
        self.processor = AutoProcessor.from_pretrained(self.checkpoint)

    def inputs(self, case: int) -> Any:
        """Model inputs of one case."""
        return self.processor.apply_chat_template(
            self.conversations[case], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )

    def pictures(self) -> list[Image.Image]:
        """Every picture of every case, in order."""
        messages = [message for conversation in self.conversations for message in conversation]
        return [Image.open(path) for message in messages for path in message.get("images", [])]

    def cases_with_images(self) -> list[int]:
        """Numbers of the cases that hold a picture."""
        return [case for case in range(len(self.conversations)) if f"case{case}.generated_ids" in self.expected]


def measure(fixture: Fixture) -> dict[str, Any]:
    """All figures of one family."""
    expected, cases = fixture.expected, range(len(fixture.conversations))
    inputs = {case: fixture.inputs(case) for case in cases}
    same_ids = [inputs[case]["input_ids"][0].tolist() == expected[f"case{case}.input_ids"].tolist() for case in cases]
    result: dict[str, Any] = {"cases": len(same_ids), "cases_with_equal_token_ids": sum(same_ids)}
    result |= measure_pixels(fixture)
    model = AutoModelForImageTextToText.from_pretrained(fixture.checkpoint, dtype=torch.float32).eval()
    result |= measure_float32(model, inputs, fixture)
    model = AutoModelForImageTextToText.from_pretrained(fixture.checkpoint, dtype=torch.bfloat16).eval()
    return result | measure_bfloat16(model, inputs, fixture)


def measure_pixels(fixture: Fixture) -> dict[str, Any]:
    """8-bit pixels of this package and of transformers' own processor against the original's."""
    expected = np.concatenate(
        [fixture.expected[f"case{case}.pixels_uint8_rows"].numpy() for case in fixture.cases_with_images()]
    ).astype(int)
    processor = fixture.processor.image_processor
    sizes = {name: dict(getattr(processor, name)) for name in ("size", "high_res_size") if hasattr(processor, name)}
    port = fixture.port_image_processor(**sizes, image_mean=processor.image_mean)
    result: dict[str, Any] = {"pictures": len(expected)}
    for name, image_processor in (("", processor), ("port_", port)):
        found = eight_bit(image_processor, fixture.pictures())[:, :, ::32].astype(int)
        differences = np.abs(found - expected).reshape(len(expected), -1).max(-1)
        result[f"{name}pictures_with_equal_pixels"] = int((differences == 0).sum())
        result[f"{name}largest_pixel_difference"] = int(differences.max())
    return result


@torch.no_grad()
def measure_float32(model: Any, inputs: dict[int, Any], fixture: Fixture) -> dict[str, Any]:
    """Relative differences of each stage, the largest over all cases."""
    stages: dict[str, list[float]] = {"tower_float32": [], "high_res_tower_float32": [], "aligner_float32": []}
    logits, same_tokens = [], []
    for case, case_inputs in inputs.items():
        expected = {
            key.partition(".")[2]: value for key, value in fixture.expected.items() if key.startswith(f"case{case}.")
        }
        logits.append(relative(model(**case_inputs).logits[0, -4:], expected["last_logits"]))
        if case not in fixture.cases_with_images():
            continue
        pixels = {name: value for name, value in case_inputs.items() if "pixel_values" in name}
        features = model.get_image_features(**pixels, return_dict=True)
        compared = (
            features.last_hidden_state,
            features.get("high_res_vision_last_hidden_state"),
            features.pooler_output,
        )
        samples = ("low_res_features_sample", "high_res_features_sample", "image_embeds_sample")
        for stage, found, sample in zip(stages, compared, samples, strict=True):
            if found is not None:
                stages[stage].append(relative(found[:, ::24], expected[sample]))
        generated = model.generate(**case_inputs, max_new_tokens=12, do_sample=False)
        new_tokens = generated[0, case_inputs["input_ids"].shape[1] :].tolist()
        same_tokens.append(new_tokens == expected["generated_ids"].tolist())
    return {
        **{stage: max(differences) for stage, differences in stages.items() if differences},
        "logits_float32": max(logits),
        "generations": len(same_tokens),
        "equal_generations": sum(same_tokens),
    }


@torch.no_grad()
def measure_bfloat16(model: Any, inputs: dict[int, Any], fixture: Fixture) -> dict[str, Any]:
    """Relative difference of the logits and share of equal most likely tokens, the worst over all cases."""
    differences, same = [], []
    for case, case_inputs in inputs.items():
        logits = model(**case_inputs).logits[0].float()
        differences.append(relative(logits[-4:], fixture.expected[f"case{case}.last_logits"]))
        same.append((logits.argmax(-1) == fixture.expected[f"case{case}.argmax"]).float().mean().item())
    return {"logits_bfloat16": max(differences), "same_top1_bfloat16": min(same)}


def main() -> None:
    """Measures every family."""
    with tempfile.TemporaryDirectory() as folder:
        families = {family: measure(Fixture(*sources, Path(folder))) for family, sources in FAMILIES.items()}
    path = write_result("parity", {"families": families})
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

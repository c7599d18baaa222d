"""Measures how close the models come to numbers of the original code, and writes results/parity.json.

The tests assert tolerances; this writes the figures themselves down.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil
from transformers.models.deepseek_vl_hybrid.image_processing_pil_deepseek_vl_hybrid import (
    DeepseekVLHybridImageProcessorPil,
)

from deepseek_vl_hf.models.deepseek_vl2.processing_deepseek_vl2 import MOST_TILED_IMAGES
from environment import write_result

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from family import FamilyFixture, convert_family, relative_error

# Per family, and per kind of attention and router: its fixture, and the image processor of transformers' own port.
# There is no port of DeepSeek-VL2.
FAMILIES = {
    "deepseek_vl": ("vl", DeepseekVLImageProcessorPil),
    "deepseek_vl_hybrid": ("vl_hybrid", DeepseekVLHybridImageProcessorPil),
    "deepseek_vl2 (tiny)": ("vl2_mha", None),
    "deepseek_vl2 (small)": ("vl2_mla", None),
    "deepseek_vl2 (base)": ("vl2_sigmoid", None),
}
# Stages and the original's numbers for them, which are every 24th row.
STAGES = {
    "tower_float32": ("low_res_features_sample", "vision_features_sample"),
    "high_res_tower_float32": ("high_res_features_sample",),
    "aligner_float32": ("image_embeds_sample", "projected_sample"),
}


def eight_bit(image_processor: Any, fixture: FamilyFixture) -> np.ndarray:
    """Rows of every picture before scaling, as the fixtures hold them; of two resolutions the high one.

    Returns:
        uint8 [pictures or tiles, 3, height / 32, width].
    """
    rows = []
    for case in cases_with_images(fixture):
        opened = pictures(fixture, case)
        options = {"tiling": len(opened) <= MOST_TILED_IMAGES} if fixture.is_vl2 else {}
        pixels = image_processor(opened, do_rescale=False, do_normalize=False, return_tensors="np", **options)
        rows.append(np.asarray(pixels.get("high_res_pixel_values", pixels["pixel_values"]))[:, :, ::32])
    return np.concatenate(rows).round().astype(np.uint8)


def pictures(fixture: FamilyFixture, case: int) -> list[Image.Image]:
    """Every picture of a case, in order."""
    return [Image.open(path) for message in fixture.conversations[case] for path in message.get("images", [])]


def cases_with_images(fixture: FamilyFixture) -> list[int]:
    """Numbers of the cases that hold a picture."""
    return [case for case in range(len(fixture.conversations)) if f"case{case}.pixels_uint8_rows" in fixture.expected]


def measure(fixture: FamilyFixture, port: Any) -> dict[str, Any]:
    """All figures of one family."""
    expected, cases = fixture.expected, range(len(fixture.conversations))
    inputs = {case: fixture.inputs(case) for case in cases}
    same_ids = [inputs[case]["input_ids"][0].tolist() == expected[f"case{case}.input_ids"].tolist() for case in cases]
    result: dict[str, Any] = {"cases": len(same_ids), "cases_with_equal_token_ids": sum(same_ids)}
    result |= measure_pixels(fixture, port)
    model = fixture.load(torch.float32)
    result |= measure_float32(model, inputs, fixture)
    model = fixture.load(torch.bfloat16)
    return result | measure_bfloat16(model, inputs, fixture)


def measure_pixels(fixture: FamilyFixture, port_class: Any) -> dict[str, Any]:
    """8-bit pixels of this package and of transformers' own processor against the original's."""
    expected = np.concatenate(
        [fixture.expected[f"case{case}.pixels_uint8_rows"].numpy() for case in cases_with_images(fixture)]
    ).astype(int)
    processor = fixture.processor.image_processor
    result: dict[str, Any] = {"pictures": len(expected)}
    compared = {"": processor}
    if port_class is not None:
        names = [name for name in ("size", "high_res_size") if hasattr(processor, name)]
        sizes = {name: dict(getattr(processor, name)) for name in names}
        compared["port_"] = port_class(**sizes, image_mean=processor.image_mean)
    for name, image_processor in compared.items():
        found = eight_bit(image_processor, fixture).astype(int)
        differences = np.abs(found - expected).reshape(len(expected), -1).max(-1)
        result[f"{name}pictures_with_equal_pixels"] = int((differences == 0).sum())
        result[f"{name}largest_pixel_difference"] = int(differences.max())
    return result


@torch.no_grad()
def measure_float32(model: Any, inputs: dict[int, Any], fixture: FamilyFixture) -> dict[str, Any]:
    """Relative differences of each stage, the largest over all cases."""
    stages: dict[str, list[float]] = {stage: [] for stage in STAGES}
    logits, same_tokens = [], []
    for case, case_inputs in inputs.items():
        expected = {
            key.partition(".")[2]: value for key, value in fixture.expected.items() if key.startswith(f"case{case}.")
        }
        logits.append(relative_error(model(**case_inputs).logits[0, -4:], expected["last_logits"]))
        if case in cases_with_images(fixture):
            for stage, found in stage_outputs(model, fixture.pixels(case)).items():
                sample = next(expected[name] for name in STAGES[stage] if name in expected)
                stages[stage].append(relative_error(found[:, ::24], sample))
        if "generated_ids" in expected:
            generated = model.generate(**case_inputs, max_new_tokens=12, do_sample=False)
            new_tokens = generated[0, case_inputs["input_ids"].shape[1] :].tolist()
            same_tokens.append(new_tokens == expected["generated_ids"].tolist())
    return {
        **{stage: max(differences) for stage, differences in stages.items() if differences},
        "logits_float32": max(logits),
        "generations": len(same_tokens),
        "equal_generations": sum(same_tokens),
    }


def stage_outputs(model: Any, pixels: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the towers and the aligner give, the latter for each picture or tile."""
    features = model.get_image_features(**pixels, return_dict=True)
    outputs = {"tower_float32": features.last_hidden_state}
    high = features.get("high_res_vision_last_hidden_state")
    if high is not None:
        outputs["high_res_tower_float32"] = high
    tiled = "tile_grids" in pixels
    outputs["aligner_float32"] = model.model.projector(features.last_hidden_state) if tiled else features.pooler_output
    return outputs


@torch.no_grad()
def measure_bfloat16(model: Any, inputs: dict[int, Any], fixture: FamilyFixture) -> dict[str, Any]:
    """Relative difference of the logits and share of equal most likely tokens, the worst over all cases."""
    differences, same = [], []
    for case, case_inputs in inputs.items():
        logits = model(**case_inputs).logits[0].float()
        differences.append(relative_error(logits[-4:], fixture.expected[f"case{case}.last_logits"]))
        same.append((logits.argmax(-1) == fixture.expected[f"case{case}.argmax"]).float().mean().item())
    return {"logits_bfloat16": max(differences), "same_top1_bfloat16": min(same)}


def main() -> None:
    """Measures every family."""
    with tempfile.TemporaryDirectory() as folder:
        families = {
            family: measure(convert_family(name, Path(folder)), port) for family, (name, port) in FAMILIES.items()
        }
    path = write_result("parity", {"families": families})
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

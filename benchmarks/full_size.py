"""Runs a model of the published size with random weights once, and reports memory and time.

    python benchmarks/full_size.py deepseek_vl_hybrid

The weights are drawn in bfloat16 straight into place, so the peak is what a loaded checkpoint needs.
"""

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText

from deepseek_vl_hf.models.families import FAMILIES
from environment import report

PICTURE = Path(__file__).parent.parent / "examples" / "pictures" / "shapes.png"
TEXT_TOKENS = 44
NEW_TOKENS = 4


def resident_gigabytes() -> tuple[float, float]:
    """Memory of this process in GB: now, and at its peak."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB on Linux
    return pages * resource.getpagesize() / 1e9, peak * 1024 / 1e9


def random_model(model_type: str) -> Any:
    """The published size in bfloat16, its weights drawn once and in place."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(model_type), dtype=torch.bfloat16)
    rotary = {name: buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")}
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    for name, module in model.named_modules():
        if f"{name}.inv_freq" in rotary:
            module.inv_freq.copy_(module.compute_default_rope_parameters(module.config)[0])
    for embeddings in (module for module in model.modules() if hasattr(module, "position_ids")):
        embeddings.position_ids.copy_(torch.arange(embeddings.position_ids.shape[-1])[None])
    return model.eval()


@torch.no_grad()
def measure(model_type: str) -> dict[str, Any]:
    """Memory after each stage, and how long each took."""
    family = next(family for family in FAMILIES if family.config.model_type == model_type)
    result: dict[str, Any] = {"model_type": model_type, "dtype": "bfloat16"}
    start_gigabytes, _ = resident_gigabytes()

    def stage(name: str, start: float) -> None:
        now, peak = resident_gigabytes()
        result[name] = {"seconds": round(time.perf_counter() - start, 2), "resident_gb": round(now, 2)}
        result[name]["peak_gb"] = round(peak, 2)

    start = time.perf_counter()
    model = random_model(model_type)
    result["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    result["weights_gb"] = round(sum(p.numel() * p.element_size() for p in model.parameters()) / 1e9, 2)
    result["before_gb"] = round(start_gigabytes, 2)
    stage("build", start)

    start = time.perf_counter()
    pixels = dict(family.image_processor()(Image.open(PICTURE), return_tensors="pt"))
    stage("preprocess", start)

    start = time.perf_counter()
    features = model.get_image_features(**pixels, return_dict=True)
    stage("encode_one_picture", start)
    (image,) = features.pooler_output
    result["image_tokens"] = len(image)
    result["finite"] = bool(image.isfinite().all())

    start = time.perf_counter()
    ids = torch.full((1, TEXT_TOKENS + result["image_tokens"]), 5)
    ids[0, 2 : 2 + result["image_tokens"]] = model.config.image_token_id
    generated = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), **pixels, max_new_tokens=NEW_TOKENS, do_sample=False
    )
    result["prompt_tokens"], result["new_tokens"] = ids.shape[1], generated.shape[1] - ids.shape[1]
    stage("generate", start)
    return result


def main() -> int:
    """Measures one family and prints or stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_type", choices=[family.config.model_type for family in FAMILIES])
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    arguments = parser.parse_args()
    figures = measure(arguments.model_type)
    report(f"full_size_{arguments.model_type}", figures, stored=not arguments.no_result)
    return 0


if __name__ == "__main__":
    sys.exit(main())

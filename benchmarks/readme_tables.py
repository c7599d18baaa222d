"""Writes the tables of the README and of pages in docs/ from their files, or checks that they are up to date."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import compatibility_tables
import front_tables
import int4_tables
import nano_tables
import robustness_tables
import serving_tables
import speed_tables
import training_tables
from speed_tables import amount

ROOT = Path(__file__).parent.parent


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def links(repositories: Sequence[str]) -> str:
    """Links to Hub repositories."""
    return ", ".join(f"[{name}](https://huggingface.co/{name})" for name in repositories)


def difference(value: float) -> str:
    """A relative difference, in words if there is none."""
    return f"{value:.0e}" if value else "equal to the bit"


def checkpoints_table() -> str:
    """Published checkpoints, from docs/checkpoints.json."""
    families = json.loads((ROOT / "docs" / "checkpoints.json").read_text(encoding="utf-8"))["families"]
    rows = [
        [
            family["name"],
            f"`{family['model_type']}`",
            family["vision"],
            family["text"],
            f"{family['parameters'] / 1e9:.2f} B, {family['bytes'] / 1e9:.2f} GB in {family['weights']}",
            links(family["original"]),
            links(family["transformers_layout"]) or "none",
        ]
        for family in families
    ]
    head = ["model", "model type", "vision", "text", "size", "original layout", "transformers layout"]
    return table(head, rows)


def pixels(figures: dict[str, Any], prefix: str) -> str:
    """How many pictures have the original's pixels, and how far off the worst other one is."""
    if f"{prefix}pictures_with_equal_pixels" not in figures:
        return "there is none"
    text = f"{figures[f'{prefix}pictures_with_equal_pixels']} of {figures['pictures']}"
    largest = figures[f"{prefix}largest_pixel_difference"]
    return f"{text}, off by up to {largest}" if largest else text


PARITY_ROWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "token ids equal": lambda f: f"{f['cases_with_equal_token_ids']} of {f['cases']} conversations",
    "pictures or tiles with equal 8-bit pixels": lambda f: pixels(f, ""),
    "the same, transformers' own port": lambda f: pixels(f, "port_"),
    "SigLIP, float32": lambda f: difference(f["tower_float32"]),
    "SAM, float32": lambda f: difference(f["high_res_tower_float32"]) if "high_res_tower_float32" in f else "",
    "aligner or projector, float32": lambda f: difference(f["aligner_float32"]),
    "logits, float32": lambda f: difference(f["logits_float32"]),
    "greedy tokens equal": lambda f: f"{f['equal_generations']} of {f['generations']} answers",
    "logits, bfloat16": lambda f: f"{f['logits_bfloat16']:.3f}",
    "most likely token equal, bfloat16": lambda f: f"{f['same_top1_bfloat16']:.1%} of positions",
}


def parity_table() -> str:
    """Agreement with the original code, from benchmarks/results/parity.json."""
    path = ROOT / "benchmarks" / "results" / "parity.json"
    families = json.loads(path.read_text(encoding="utf-8"))["families"]
    rows = [[name, *(write(figures) for figures in families.values())] for name, write in PARITY_ROWS.items()]
    return table(["compared with the original", *(f"`{family}`" for family in families)], rows)


def full_size_table() -> str:
    """Memory and time of the published sizes, from benchmarks/results/full_size_*.json."""
    rows = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("full_size_*.json")):
        figures = json.loads(path.read_text(encoding="utf-8"))
        machine = figures["environment"]
        rows.append(
            [
                f"`{figures['model_type']}`",
                f"{figures['weights_gb']:.1f} GB",
                f"{figures['generate']['peak_gb']:.1f} GB",
                f"{figures['encode_one_picture']['seconds']:.1f} s",
                f"{figures['generate']['seconds']:.1f} s for {figures['prompt_tokens']} tokens",
                f"{machine['processor']}, {machine['cores']} cores, {figures['dtype']}",
            ]
        )
    head = [
        "model type",
        "weights",
        "peak memory",
        "encoding a picture",
        "prompt with a picture and 4 new tokens",
        "machine",
    ]
    return table(head, rows)


FOUR_BITS = 0.5 + 4 / 128  # bytes per weight: the weight, and for 128 of them a bfloat16 scale and zero
# In the language model's layers; kv_b_proj is multiplied into queries and outputs, the router is small.
STAYS_16_BIT = ("kv_b_proj", "mlp.gate.", "norm")


MODELS = {
    "deepseek-vl-1.3b": "DeepSeek-VL 1.3B",
    "deepseek-vl-7b": "DeepSeek-VL 7B",
    "deepseek-vl2-tiny": "DeepSeek-VL2 tiny",
    "deepseek-vl2-small": "DeepSeek-VL2 small",
    "deepseek-vl2": "DeepSeek-VL2",
    "deepseek-ocr": "DeepSeek-OCR",
}
UNUSED = ("attn_pool", "patch_embedding")  # in files; of DeepSeek-OCR's CLIP, which reads features


def memory_table() -> str:
    """Weights of the published sizes by type, computed from their shapes; 4 bits are those of the language layers."""
    rows = []
    for path in sorted((ROOT / "tests" / "fixtures" / "weights").glob("*.json"), key=weights_of):
        shapes = json.loads(path.read_text(encoding="utf-8"))["shapes"]
        used = {name: math.prod(shape) for name, shape in shapes.items() if not any(part in name for part in UNUSED)}
        packed = sum(number for name, number in used.items() if ".model.layers." in f".{name}" and is_packed(name))
        whole = sum(used.values()) * 2
        in_4_bits = whole - packed * (2 - FOUR_BITS)
        rows.append([MODELS[path.stem], *(f"{size / 1e9:.1f} GB" for size in (in_4_bits, whole, 2 * whole))])
    return table(["model", "4 bits", "bfloat16 or float16", "float32"], rows)


def weights_of(path: Path) -> int:
    """Number of weights that a file of shapes lists."""
    return json.loads(path.read_text(encoding="utf-8"))["params"]


def is_packed(name: str) -> bool:
    """Whether a tensor of the language model's layers can be stored with 4 bits."""
    return not any(part in name for part in STAYS_16_BIT)


def loading_table() -> str:
    """Time and memory of opening original files, from benchmarks/results/loading_*.json."""
    rows = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("loading_*.json")):
        figures = json.loads(path.read_text(encoding="utf-8"))
        machine = figures["environment"]
        rows.append(
            [
                figures["size"] + ("" if figures["layers"] == "all" else f", {figures['layers']} layers"),
                f"{figures['weights_bytes'] / 1e9:.1f} GB",
                f"{figures['load_seconds']:.1f} s",
                f"{figures['peak_to_weights']:.2f} x the weights",
                f"{figures['peak_with_mapped_files_bytes'] / figures['weights_bytes']:.2f} x",
                f"{figures['first_token_seconds']:.1f} s for {figures['prompt_tokens']} tokens",
                f"{figures['seconds_per_further_token'] * 1000:.0f} ms",
                f"{machine['processor']}, {machine['cores']} cores, {figures['dtype']}",
            ]
        )
    head = [
        "original files",
        "weights",
        "loading",
        "peak of its own memory",
        "with mapped files",
        "first token",
        "each further",
        "machine",
    ]
    return table(head, rows)


def conversion_table() -> str:
    """Time and memory of converting the 7B checkpoint, from benchmarks/results/conversion.json."""
    figures = json.loads((ROOT / "benchmarks" / "results" / "conversion.json").read_text(encoding="utf-8"))
    machine = figures["environment"]
    row = [
        f"`{figures['model_type']}`",
        f"{figures['checkpoint_bytes'] / 1e9:.1f} GB",
        f"{figures['conversion_median_seconds']:.0f} s",
        f"{figures['cp_median_seconds']:.0f} s",
        f"{figures['conversion_to_cp']:.2f}",
        f"{figures['peak_memory_bytes'] / 1e9:.1f} GB",
        f"{machine['processor']}, {machine['cores']} cores",
    ]
    head = ["model type", "checkpoint", "conversion", "`cp` of the same files", "ratio", "peak memory", "machine"]
    return table(head, [row])


def chat_table() -> str:
    """Turns of a conversation against the pipeline, from benchmarks/results/chat.json."""
    figures = json.loads((ROOT / "benchmarks" / "results" / "chat.json").read_text(encoding="utf-8"))
    rows = [
        [
            f"turn {row['turn']}",
            f"{row['kept_tokens']} of {row['prompt_tokens']}",
            amount(row["seconds"]["chat"], "seconds"),
            amount(row["seconds"]["pipeline"], "seconds"),
            f"{row['ratio']:.3f}",
        ]
        for row in figures["turns"]
    ]
    return table(["time to the first token", "tokens known", "`Chat`", "pipeline", "ratio"], rows)


DESCRIBE_ROWS = {
    "batches": "batches of {batch_size}",
    "one_by_one": "one by one (`--batch-size 1`)",
    "chat": "`Chat.ask`, as without `--output`",
}


def describe_table() -> str:
    """Pictures per second in batches and one by one, from benchmarks/results/describe.json."""
    figures = json.loads((ROOT / "benchmarks" / "results" / "describe.json").read_text(encoding="utf-8"))
    speeds, batches = figures["pictures_per_second"], "batches"
    faster = {"one_by_one": figures["ratio_to_one_by_one"], "chat": figures["ratio_to_chat"]}
    rows = [
        [
            name.format(**figures),
            f"{speeds[way]:.1f}",
            "" if way == batches else f"{faster[way]:.2f}",
            *(
                "" if way == batches else f"{same[way]} of {figures['pictures']}"
                for same in figures["same_answers"].values()
            ),
        ]
        for way, name in DESCRIBE_ROWS.items()
    ]
    types = [dtype.removeprefix("torch.") for dtype in figures["same_answers"]]
    compared = [f"answers as in batches, {dtype}" for dtype in types]
    return table(["nano, greedy", f"pictures per second, {types[0]}", "ratio", *compared], rows)


def decoding_table() -> str:
    """A token after growing contexts, from benchmarks/results/decoding.json."""
    figures = json.loads((ROOT / "benchmarks" / "results" / "decoding.json").read_text(encoding="utf-8"))
    rows = [
        [
            row["weights"],
            f"{row['context']} tokens",
            amount(row["seconds"]["deepseek_vl_hf"], "seconds"),
            amount(row["seconds"]["transformers"], "seconds"),
            f"{row['ratio']:.2f}",
        ]
        for row in figures["rows"]
    ]
    return table(["weights", "context", "deepseek_vl_hf", "transformers' cache and `sdpa`", "ratio"], rows)


STARTUP_ROWS = {
    "auto_classes": "`import torch` and transformers' Auto classes, with torchao",
    "package": "`import deepseek_vl_hf`, beyond that",
    "help": "`deepseek-vl --help`",
    "version": "`deepseek-vl --version`",
    "mistake": "a mistake in the arguments of `deepseek-vl`",
}


def startup_table() -> str:
    """Processor time before there is a model, from benchmarks/results/startup.json."""
    figures = json.loads((ROOT / "benchmarks" / "results" / "startup.json").read_text(encoding="utf-8"))
    seconds = {**figures["cpu_seconds"], "package": figures["package_beyond_auto_classes_cpu_seconds"]}
    rows = [[name, f"{seconds[key]:.2f} s"] for key, name in STARTUP_ROWS.items()]
    return table(["starting", "processor time"], rows)


QUANTIZATION = {
    "int4": int4_tables.speed_table,
    "int4 quality": int4_tables.quality_table,
    "int4 fixtures": int4_tables.fixtures_table,
    "int4 memory": int4_tables.memory_table,
}
PAGES = {
    "README.md": {"install": front_tables.install_lines, "memory": memory_table, "why": front_tables.why_table},
    "docs/checkpoints.md": {"checkpoints": checkpoints_table, "conversion": conversion_table},
    "docs/nano.md": {
        "nano": nano_tables.nano_table,
        "nano-vl2": nano_tables.nano_vl2_table,
        "nano-vl2 boxes": nano_tables.nano_vl2_boxes_table,
        "nano-vl2 facts": nano_tables.nano_vl2_facts_table,
    },
    "docs/parity.md": {"parity": parity_table},
    "docs/quantization.md": QUANTIZATION,
    "docs/choosing.md": {"memory": memory_table},
    "docs/chat.md": {"chat": chat_table, "describe": describe_table},
    "docs/compatibility.md": {"compatibility": compatibility_tables.runs_table},
    "docs/serving.md": {"serving": serving_tables.serving_table, "serving memory": serving_tables.memory_table},
    "docs/training.md": {
        "training memory": training_tables.memory_table,
        "training memory check": training_tables.check_table,
        "training": training_tables.compared_table,
    },
    "docs/robustness.md": {"robustness": robustness_tables.cases_table},
    "docs/speed.md": {
        "speed": speed_tables.speed_table,
        "full size": full_size_table,
        "loading": loading_table,
        "speed vl2": speed_tables.speed_vl2_table,
        "ocr": speed_tables.ocr_table,
        "ocr pages": speed_tables.ocr_pages_table,
        "decoding": decoding_table,
        "number types": speed_tables.number_types_table,
        "startup": startup_table,
    },
}


def render(page: str) -> str:
    """A page with every table written anew.

    Args:
        page: of PAGES.

    Raises:
        ValueError: the markers of a table are missing.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, make in PAGES[page].items():
        begin, end = f"<!-- table: {name} -->\n", "<!-- end of table -->"
        head, found_begin, rest = text.partition(begin)
        _, found_end, tail = rest.partition(end)
        if not (found_begin and found_end):
            raise ValueError(f"{page} has no '{begin.strip()}' followed by '{end}'.")
        text = f"{head}{begin}{make()}\n{end}{tail}"
    return text


def main() -> int:
    """Checks, or writes with --write; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the pages instead of checking them")
    arguments = parser.parse_args()
    old = []
    for page in PAGES:
        wanted = render(page)
        if arguments.write:
            (ROOT / page).write_text(wanted, encoding="utf-8")
        elif wanted != (ROOT / page).read_text(encoding="utf-8"):
            old.append(page)
    if old:
        print(f"The tables of {', '.join(old)} differ from their files; run `make docs-tables`.", file=sys.stderr)
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())

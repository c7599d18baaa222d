"""The tables on 4-bit weights, for the README and docs/quantization.md, from benchmarks/results/int4*.json."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LOADING = "loading_deepseek-vl2-small_int4.json"


def results(name: str) -> Any:
    """A file of figures."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def milliseconds(seconds: float) -> str:
    """With the digits that matter."""
    return f"{seconds * 1000:.{1 if seconds < 0.1 else 0}f} ms"


def speed_table() -> str:
    """Products and layers of published sizes, 4 bits beside bfloat16."""
    rows = []
    for size in results("int4.json")["sizes"]:
        alone = {"what": "linear layers alone, one token", **size["linear_layers_alone"]}
        for row in (alone, *size["layers"]):
            after = f" after {row['cached']}" if row["cached"] else ""
            tokens = "one token" if row["tokens"] == 1 else f"{row['tokens']} tokens"
            found = row["seconds"]
            rows.append(
                [
                    f"{size['size']}, {size['language_layers']} layers",
                    row.get("what", f"{tokens}{after}"),
                    milliseconds(found["int4"]),
                    milliseconds(found["bfloat16"]),
                    f"{row['ratio']:.2f}",
                    milliseconds(found["bfloat16 prepacked"]) if "bfloat16 prepacked" in found else "",
                ]
            )
    return table(["language model of", "what", "int4", "bfloat16", "ratio", "bfloat16, prepacked"], rows)


def quality_table() -> str:
    """The nano model's answers, by group size."""
    figures = results("int4_quality.json")["nano"]["figures"]
    rows = []
    for size, found in figures.items():
        used = found.get("group_sizes_used")
        name = size if used is None else f"groups of {size}" + ("" if used == [int(size)] else f", all {used[0]} here")
        rows.append(
            [
                name,
                f"{found['right']:.1%}",
                f"{found['kl_divergence']:.5f}" if used else "",
                f"{found['top1_agreement']:.2%}" if used else "",
            ]
        )
    return table(["nano", "right answers", "KL divergence from bfloat16 (nats)", "same most likely token"], rows)


def fixtures_table() -> str:
    """Distributions of small random models, by group size."""
    rows = [
        [f"`{name}`", size, f"{found['kl_divergence']:.3f}", f"{found['top1_agreement']:.0%}"]
        for name, sizes in results("int4_quality.json")["fixtures"].items()
        for size, found in sizes.items()
    ]
    return table(["fixture", "groups of", "KL divergence from bfloat16 (nats)", "same most likely token"], rows)


def memory_table() -> str:
    """Loading and answering with 4-bit weights, a published size."""
    figures = results(LOADING)
    rows = [
        ["parameters", f"{figures['parameters'] / 1e9:.2f} B"],
        ["checkpoint, bfloat16", f"{figures['checkpoint_bytes'] / 1e9:.1f} GB"],
        ["all weights in memory, language layers in 4 bits", f"{figures['weights_bytes'] / 1e9:.1f} GB"],
        ["most memory of its own while loading", f"{figures['peak_while_loading_bytes'] / 1e9:.1f} GB"],
        ["the same, while answering about a picture", f"{figures['peak_while_answering_bytes'] / 1e9:.1f} GB"],
        ["loading", f"{figures['load_seconds']:.1f} s"],
        [f"first token, {figures['prompt_tokens']} tokens with a picture", f"{figures['first_token_seconds']:.1f} s"],
        ["each further token", milliseconds(figures["seconds_per_further_token"])],
    ]
    layers = "all" if figures["layers"] == "all" else f"{figures['layers']} of"
    return table([f"{figures['size']}, {layers} 27 layers", ""], rows)

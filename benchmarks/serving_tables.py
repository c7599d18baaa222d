"""The tables of docs/serving.md, from benchmarks/results/serving.json and the shapes of the published weights."""

import json
import math
from pathlib import Path

from int4_tables import results, table

SHAPES = Path(__file__).parent.parent / "tests" / "fixtures" / "weights"
CACHED = (".k_proj.weight", ".v_proj.weight", ".kv_a_proj_with_mqa.weight")
# Of latent attention with keys and values of all heads: what a head takes of kv_b_proj, and what vLLM keeps of it.
EXPANDED, ROWS_OF_A_HEAD, KEPT_OF_A_HEAD = ".kv_b_proj.weight", 256, 2 * 192
BYTES = 2
CONTEXT = 4096
HEAD = ["engine", "clients at once", "requests per second", "time to the first token", "to start", "grown in 180 turns"]


def serving_table() -> str:
    """Each engine under each load."""
    figures = results("serving.json")
    rows = [
        [
            row["engine"],
            str(row["clients"]),
            f"{row['requests_per_second']:.1f}",
            f"{row['seconds_to_first_token'] * 1000:.0f} ms",
            seconds(figures["seconds_to_start"].get(row["engine"])),
            megabytes(figures["bytes_grown_in_180_turns"].get(row["engine"])),
        ]
        for row in sorted(figures["rows"], key=lambda row: row["engine"])
    ]
    return table(HEAD, rows)


def seconds(value: float | None) -> str:
    """Of a server."""
    return "" if value is None else f"{value:.0f} s"


def megabytes(value: int | None) -> str:
    """Of a server."""
    return "" if value is None else f"{value / 1e6:.0f} MB"


def memory_table() -> str:
    """Weights and caches in 16 bits, computed from the shapes of the published weights."""
    rows = []
    for path in sorted(SHAPES.glob("deepseek-vl*.json"), key=weights_of):  # those that vLLM serves
        shapes = json.loads(path.read_text(encoding="utf-8"))["shapes"]
        used = {name: shape for name, shape in shapes.items() if "attn_pool" not in name}
        language = {name: shape for name, shape in used.items() if name.startswith("language")}
        token = sum(shape[0] for name, shape in language.items() if name.endswith(CACHED)) * BYTES
        expanded = sum(shape[0] for name, shape in language.items() if name.endswith(EXPANDED))
        on_cpu = expanded // ROWS_OF_A_HEAD * KEPT_OF_A_HEAD * BYTES or token
        weights = sum(math.prod(shape) for shape in used.values()) * BYTES
        rows.append([path.stem, f"{weights / 1e9:.1f} GB", kept(token), kept(on_cpu)])
    return table(["size", "weights", f"cache, {CONTEXT} tokens", "the same in vLLM on a CPU"], rows)


def weights_of(path: Path) -> int:
    """Number of weights that a file of shapes lists."""
    return int(json.loads(path.read_text(encoding="utf-8"))["params"])


def kept(bytes_of_a_token: int) -> str:
    """What a whole context takes."""
    return f"{bytes_of_a_token * CONTEXT / 1e9:.2f} GB"

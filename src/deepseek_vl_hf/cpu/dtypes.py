"""Which type of numbers suits a device: what it computes fastest in, of those that hold a model's numbers.

The published files are float16 or bfloat16. A processor with instructions for bfloat16 (AVX-512-BF16, AMX, ARM's) is
four times as fast in it as in float32; one without them, as most desktops and laptops are, is six to eight times slower
in bfloat16 than in float32 where there are many tokens at a time. `docs/speed.md` has the figures.
"""

from pathlib import Path

import psutil
import torch

from ..hf.kernels import processor_has_bfloat16

# What a model in float32 may take of the machine's memory; the rest is the cache's, the pictures' and the system's.
SHARE_OF_MEMORY = 0.8


def fast_dtype(device: str | torch.device | None = None) -> torch.dtype:
    """The type of numbers in which a device computes fastest.

    Args:
        device: by default CUDA if there is one, else the CPU.

    Returns:
        On a GPU bfloat16, or float16 where it has none; on a CPU bfloat16 if the processor multiplies it by itself,
        else float32, also on a processor of which nothing is known.
    """
    kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")).type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if kind == "cpu":
        return torch.bfloat16 if processor_has_bfloat16() else torch.float32
    return torch.float16


def dtype_that_fits(folder: Path, device: str | torch.device | None = None) -> torch.dtype:
    """`fast_dtype`, or bfloat16 where a checkpoint in float32 would not fit in this machine's memory.

    Args:
        folder: of the checkpoint, whose files hold two bytes for a number.
        device: see `fast_dtype`.
    """
    dtype = fast_dtype(device)
    if dtype != torch.float32 or 2 * _bytes_of_weights(folder) <= SHARE_OF_MEMORY * _memory():
        return dtype
    return torch.bfloat16


def slowness(dtype: torch.dtype) -> str | None:
    """What to say of a type that this machine's processor computes slowly; None of others."""
    best = fast_dtype("cpu")
    if dtype in (best, torch.float32):
        return None
    if dtype == torch.float16:
        factor = "some ten times" if best == torch.bfloat16 else "six to twelve times"
    else:
        factor = "six to eight times"
    return (
        f"The model runs in {_name(dtype)} on a processor that has no instructions for it; many tokens at a time, as "
        f"those of a picture, take {factor} as long as in {_name(best)}. Load it with dtype={best}, or call "
        "deepseek_vl_hf.prepack_weights(model), which keeps the memory that it takes."
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _bytes_of_weights(folder: Path) -> int:
    return sum(path.stat().st_size for kind in ("*.safetensors", "*.bin") for path in folder.glob(kind))


def _memory() -> float:
    """Bytes of the machine's memory."""
    return float(psutil.virtual_memory().total)

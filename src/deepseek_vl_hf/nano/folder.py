"""The small trained model that comes with the package."""

from pathlib import Path

NANO = "nano"


def nano_path() -> Path:
    """Folder of the nano model: DeepSeek-VL-Hybrid's architecture with 4 million parameters, in the original layout.

    It answers questions about shapes, colours, counts, positions, short strings and bar charts in drawn pictures, in
    English and Chinese. `from_pretrained` opens the folder like that of a published checkpoint.
    """
    return Path(__file__).parent / "checkpoint"

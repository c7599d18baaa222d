"""Writing a checkpoint with 4-bit weights."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from ...devices import check_device
from ...quantization import QuantizationReport, int4_config, quantization_report
from ..layouts.generation_file import read_generation_file
from ..layouts.small_files import open_processor
from ..tensors.damage import naming_damage
from ..tensors.source import open_tensors
from ..tensors.writer import not_finite_of
from .convert import DEFAULT_SHARD_SIZE, Report, no_report, report_not_finite
from .destination import check_destination, check_space, new_folder
from .model_card import card_data, origin_of, write_card


def quantize_checkpoint(
    source: str | Path,
    destination: str | Path,
    *,
    group_size: int = 128,
    device: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
    max_shard_size: str | int = DEFAULT_SHARD_SIZE,
    overwrite: bool = False,
    base_model: str | None = None,
    report: Report = no_report,
) -> QuantizationReport:
    """Writes a checkpoint whose language model has 4-bit weights, with its processor and a model card.

    The source is only read, layer by layer; the destination is complete or absent. How many of its values are NaN or
    infinite is reported.

    Args:
        source: folder of a DeepSeek-VL checkpoint in either layout.
        destination: folder to create; it must not exist, or be empty, unless `overwrite`.
        group_size: see `int4_config`.
        device: the kind of device that the result will run on; see `int4_config`.
        dtype: type of all that keeps more than 4 bits.
        max_shard_size: largest size of a weight file, in bytes or as "5GB".
        overwrite: replace a checkpoint that is at the destination.
        base_model: Hub repository that the model card names as the origin; guessed from the source's name by default.
        report: receives lines of text.

    Returns:
        Which layers were quantized.

    Raises:
        FileNotFoundError: a file is missing in `source`.
        FileExistsError: `destination` holds files.
        ImportError: torchao is missing.
        OSError: the disk is full.
        ValueError: `source` has quantized weights already, is damaged, lacks tensors or has others, or the group size
            or type suits no layer or device.
    """
    source, destination = Path(source), Path(destination).resolve()
    check_destination(source, destination, overwrite)
    read_generation_file(source)
    if getattr(AutoConfig.from_pretrained(source), "quantization_config", None):
        raise ValueError(f"{source} has quantized weights already. Name the checkpoint that it was made from.")
    config = int4_config(group_size, device)
    check_device(config.device)
    processor, model = _load(source, dtype, config, report)
    layers = quantization_report(model)
    report(str(layers))
    check_space(destination, layers.num_bytes)
    with new_folder(destination, overwrite, report) as folder:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        processor.save_pretrained(folder)
        _write_card(folder, model.config, source, layers, base_model)
        for file in folder.iterdir():
            shutil.copymode(folder / "config.json", file)  # transformers makes weight files private
    report(f"Wrote {destination}")
    return layers


def _load(source: Path, dtype: torch.dtype, config: Any, report: Report) -> tuple[Any, Any]:
    """Processor and quantized model; values that are not finite are reported."""
    with naming_damage(source):
        processor = open_processor(source)
        with open_tensors(source) as tensors:
            report_not_finite(not_finite_of(tensors.values()), report, refuse=False)
        model = AutoModelForImageTextToText.from_pretrained(
            source, dtype=dtype, device_map=config.device, quantization_config=config
        )
    return processor, model


def _write_card(folder: Path, config: Any, source: Path, layers: QuantizationReport, base_model: str | None) -> None:
    origin = base_model or origin_of(source)
    data = card_data(config.model_type, origin)
    data.base_model_relation = "quantized"
    write_card(
        folder,
        data,
        "quantized_card.md.j2",
        name=(origin or source.resolve().name).rpartition("/")[2],
        origin=origin,
        quantization=config.quantization_config,
        layers=layers,
    )

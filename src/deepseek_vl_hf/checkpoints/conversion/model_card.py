"""The model card (README.md) of a converted checkpoint."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ...models.families import FAMILIES
from ...version import __version__
from .jobs import ORIGINAL, Job

# The published repositories, by the folder name that a download has.
PUBLISHED = {
    f"deepseek-vl-{size}-{kind}": f"deepseek-ai/deepseek-vl-{size}-{kind}"
    for size in ("1.3b", "7b")
    for kind in ("base", "chat")
} | {
    name: f"deepseek-ai/{name}" for name in ("deepseek-vl2-tiny", "deepseek-vl2-small", "deepseek-vl2", "DeepSeek-OCR")
}
LICENSE = "https://github.com/deepseek-ai/{repository}/blob/main/{file}"
OCR = "deepseek_ocr"
TOWERS = {
    "deepseek_ocr": "a SAM tower that reads pictures and their tiles, and CLIP on its features",
    "deepseek_vl": "a SigLIP tower that reads pictures at {low} pixels",
    "deepseek_vl2": "a SigLIP tower that reads pictures in tiles of {low} pixels",
    "deepseek_vl_hybrid": "a SigLIP tower that reads pictures at {low} pixels and a SAM tower for {high} pixels",
}


def write_model_card(
    folder: Path, job: Job, source: Path, verification: dict[str, Any] | None, base_model: str | None
) -> None:
    """Writes README.md: Hub metadata, how to use the model, where it comes from and how the conversion was verified.

    Args:
        folder: the converted checkpoint.
        job: the conversion.
        source: the folder that was converted; its name is recognized if it is a published repository's.
        verification: figures of the verification; None if there was none.
        base_model: the origin's Hub repository, in place of the recognized one.

    Raises:
        OSError: the file cannot be written.
    """
    origin = base_model or origin_of(source)
    data = card_data(job.config.model_type, origin)
    stored = {tensor.dtype for tensor in job.plan.tensors}
    written = stored if job.dtype is None else {job.dtype}
    write_card(
        folder,
        data,
        "model_card.md.j2",
        name=(origin or source.resolve().name).rpartition("/")[2],
        origin=origin,
        layout=job.to,
        is_original=job.to == ORIGINAL,
        is_vl2=job.config.model_type == "deepseek_vl2",
        is_ocr=job.config.model_type == OCR,
        model_class=_model_class(job),
        towers=_towers(job),
        text=job.config.text_config,
        dtype=" and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in written)),
        rounded=written != stored,
        num_tensors=len(job.plan.tensors),
        dropped={reason: len(tensors) for reason, tensors in job.plan.dropped.items()},
        verification=verification,
    )


def write_card(folder: Path, data: ModelCardData, template: str, **values: Any) -> None:
    """Writes README.md.

    Args:
        folder: of the checkpoint.
        data: what the Hub reads.
        template: name of a file beside this module.
        **values: for the template, beside the version and the license.
    """
    text = files(__package__).joinpath(template).read_text(encoding="utf-8")
    card = ModelCard.from_template(
        data, template_str=text, version=__version__, license=data.license, license_link=data.license_link, **values
    )
    # Optional parts of the template leave blank lines behind.
    text = re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n"
    (folder / "README.md").write_text(text, encoding="utf-8")


def origin_of(source: Path) -> str | None:
    """The published repository that a folder is a download of, judged by its name."""
    return PUBLISHED.get(source.resolve().name)


def card_data(model_type: str, origin: str | None) -> ModelCardData:
    """What the Hub reads of a model card."""
    return ModelCardData(
        language=["en", "zh"],
        **_license(model_type),
        pipeline_tag="image-text-to-text",
        library_name="transformers",
        base_model=origin,
        tags=["deepseek-vl", "deepseek_vl_hf", model_type.replace("_", "-"), "vision", "multimodal"],
        ignore_metadata_errors=False,
    )


def _license(model_type: str) -> dict[str, str]:
    """DeepSeek's own for all but DeepSeek-OCR, which is under MIT's."""
    if model_type == OCR:
        return {"license": "mit", "license_link": LICENSE.format(repository="DeepSeek-OCR", file="LICENSE")}
    repository = "DeepSeek-VL2" if model_type == "deepseek_vl2" else "DeepSeek-VL"
    link = LICENSE.format(repository=repository, file="LICENSE-MODEL")
    return {"license": "other", "license_name": "deepseek", "license_link": link}


def _model_class(job: Job) -> str:
    """The name of the class that generates, which transformers has as well for two of the families."""
    return next(each.generation_model.__name__ for each in FAMILIES if isinstance(job.config, each.config))


def _towers(job: Job) -> str:
    high = getattr(job.config, "high_res_vision_config", None)
    return TOWERS[job.config.model_type].format(
        low=job.config.vision_config.image_size, high=high.image_size if high else None
    )

"""Proving that a written checkpoint is its source: tensor by tensor, and with one prompt through both."""

import gc
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from ..layouts.rules import invert
from ..layouts.small_files import open_processor
from ..tensors.plan import Piece, PlannedTensor, plan_tensors
from ..tensors.source import StoredTensor, open_tensors
from ..tensors.writer import ByteProgress, chunks, convert_values, read_values
from .jobs import Job

NEW_TOKENS = 8
HEADROOM = 1.25  # memory for running a model, per memory of its weights
# Of the prompts; both checkpoints are rounded alike. CPUs compute the published float16 many times slower.
DTYPE = torch.bfloat16


@dataclass(frozen=True)
class SamplePrompt:
    """A question about drawn pictures.

    Attributes:
        num_pictures: how many pictures.
        question: the text after them.
    """

    num_pictures: int
    question: str


SAMPLE_PROMPT = SamplePrompt(1, "What is in this picture?")


@dataclass(frozen=True)
class TensorComparison:
    """What comparing all tensors gave: they are equal, or there would have been an error.

    Attributes:
        tensors: source tensors that were compared.
        num_bytes: their size.
        converted_to: the type they were rounded to before comparing; None if they kept their bytes.
    """

    tensors: int
    num_bytes: int
    converted_to: str | None


@dataclass(frozen=True)
class ModelComparison:
    """What one prompt gave, through both layouts.

    Attributes:
        question: the prompt's text.
        answer: the first checkpoint's greedy answer.
        input_ids_equal: whether both processors give the same ids.
        pixels_equal: whether both give the same pixels.
        largest_logit_difference: the largest absolute difference of the logits after the prompt.
        tokens_equal: whether both answer with the same greedy tokens.
        new_tokens: how many of them were compared.
    """

    question: str
    answer: str
    input_ids_equal: bool
    pixels_equal: bool
    largest_logit_difference: float
    tokens_equal: bool
    new_tokens: int

    @property
    def identical(self) -> bool:
        """Whether nothing differs."""
        same = self.input_ids_equal and self.pixels_equal and self.tokens_equal
        return same and self.largest_logit_difference == 0


def compare_tensors(job: Job, folder: Path, progress: ByteProgress) -> TensorComparison:
    """Reads back what was written to `folder` and compares it with the source, through the inverse of the table.

    Raises:
        ValueError: a tensor differs or is missing.
    """
    dropped = {tensor.name for tensors in job.plan.dropped.values() for tensor in tensors}
    expected = {name: tensor for name, tensor in job.sources.items() if tensor.name not in dropped}
    with open_tensors(folder) as written:
        restored = {tensor.name: tensor for tensor in plan_tensors(invert(job.rules), written).tensors}
        if restored.keys() != expected.keys():
            wrong = sorted(restored.keys() ^ expected.keys())
            raise ValueError(f"{len(wrong)} tensors are not in both checkpoints, such as {wrong[0]!r}.")
        for name, source in expected.items():
            _compare_tensor(source, restored[name], progress)
        changed = {str(restored[name].dtype) for name in expected if restored[name].dtype != expected[name].dtype}
    converted_to = " and ".join(sorted(kind.removeprefix("torch.") for kind in changed)) or None
    return TensorComparison(len(expected), sum(tensor.num_bytes for tensor in expected.values()), converted_to)


def _compare_tensor(source: StoredTensor, restored: PlannedTensor, progress: ByteProgress) -> None:
    if source.shape != restored.shape:
        raise ValueError(f"{source.name!r} has the shape {source.shape}, but {restored.shape} came back.")
    offset = 0
    for piece in restored.pieces:
        for start, length in chunks(piece):
            count = length // restored.dtype.itemsize
            original = Piece(source, offset, count * source.dtype.itemsize)
            _check_equal(original, piece, start, length)
            offset += original.num_bytes
            progress(length)


def _check_equal(source: Piece, written: Piece, start: int, length: int) -> None:
    dtype = written.tensor.dtype
    found = read_values(written, start, length)
    wanted = read_values(source, source.tensor.start + source.start, source.num_bytes)
    wanted = convert_values(source, wanted, dtype)
    if not torch.equal(found.view(torch.uint8), wanted.view(torch.uint8)):
        raise ValueError(f"The tensor {source.tensor.name!r} differs from what was written for it.")


def fits_in_memory(num_bytes: int) -> bool:
    """Whether a model of this size can be loaded now, with a quarter more for running it."""
    return num_bytes * HEADROOM < float(psutil.virtual_memory().available)


def compare_models(first: Path, second: Path, prompts: Sequence[SamplePrompt]) -> list[ModelComparison]:
    """Runs prompts through two checkpoints, one loaded after the other.

    Args:
        first: a checkpoint's folder.
        second: another's.
        prompts: what to ask.

    Raises:
        OSError, RuntimeError, ValueError: transformers cannot load one of them.
    """
    return [_compare(*pair) for pair in zip(run_prompts(first, prompts), run_prompts(second, prompts), strict=True)]


def _compare(one: dict[str, Any], two: dict[str, Any]) -> ModelComparison:
    return ModelComparison(
        question=one["question"],
        answer=one["answer"],
        input_ids_equal=torch.equal(one["input_ids"], two["input_ids"]),
        pixels_equal=all(torch.equal(one["pixels"][name], two["pixels"][name]) for name in one["pixels"]),
        largest_logit_difference=float((one["logits"] - two["logits"]).abs().max()),
        tokens_equal=torch.equal(one["tokens"], two["tokens"]),
        new_tokens=one["tokens"].shape[1],
    )


@torch.no_grad()
def run_prompts(folder: Path, prompts: Sequence[SamplePrompt]) -> list[dict[str, Any]]:
    """Ids, pixels, last logits [vocabulary], greedy tokens and answer of each prompt, run in bfloat16.

    Raises:
        OSError, RuntimeError, ValueError: transformers cannot load the checkpoint.
    """
    processor = open_processor(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=DTYPE).eval()
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > HEADROOM * model.get_memory_footprint():
        model.to("cuda")
    results = [{"question": prompt.question, **_run(model, processor, prompt)} for prompt in prompts]
    del model
    gc.collect()  # before another one is loaded
    return results


def _run(model: Any, processor: Any, prompt: SamplePrompt) -> dict[str, Any]:
    pictures = [{"type": "image", "image": drawn_picture(angle)} for angle in range(0, 90 * prompt.num_pictures, 90)]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [*pictures, {"type": "text", "text": prompt.question}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )
    ids, pixels = inputs["input_ids"], {name: value for name, value in inputs.items() if name.endswith("pixel_values")}
    typed = inputs.to(model.device, dtype=model.dtype)
    logits = model(**typed, logits_to_keep=1).logits[0, -1].float().cpu()
    tokens = model.generate(**typed, max_new_tokens=NEW_TOKENS, do_sample=False)[:, ids.shape[1] :].cpu()
    answer = processor.decode(tokens[0], skip_special_tokens=True)
    return {"input_ids": ids, "pixels": pixels, "logits": logits, "tokens": tokens, "answer": answer}


def drawn_picture(angle: int) -> Image.Image:
    """A picture of gradients, wider than high before it is turned, so that every step of the preprocessing acts."""
    horizontal = Image.linear_gradient("L").rotate(90).resize((500, 333))
    vertical = Image.linear_gradient("L").resize((500, 333))
    picture = Image.merge("RGB", (horizontal, vertical, Image.radial_gradient("L").resize((500, 333))))
    return picture.rotate(angle, expand=True)


def figures(tensors: TensorComparison, models: ModelComparison | None) -> dict[str, Any]:
    """Both comparisons as plain values; the second is None where the model did not fit in memory."""
    return {"tensors": asdict(tensors), "models": None if models is None else asdict(models)}

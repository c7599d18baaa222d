"""transformers' `Trainer` for both stages: looking, with the labels of `cells`, and answering."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from transformers import BatchFeature, Trainer

from deepseek_vl_hf.models.deepseek_moe.experts import DeepseekMoeRouter
from deepseek_vl_hf.models.deepseek_vl2.tiling import num_tiles
from deepseek_vl_hf.training.collator import ConversationCollator
from nano.trainer import NanoTrainer

from .cells import LABELS, Labels, label_views, stack_labels
from .clues import CLUE_WEIGHT, CLUES, stack_clues
from .pictures import Picture
from .pointers import POINTER_WEIGHT, TOLD, Watch, find_pointers, stack_pointers
from .sharing import find_trees, in_rows, places, share
from .shown import UNTILED

# How far a correction bias moves per step (DeepSeek-V3, arXiv 2412.19437, section 2.1.2, at 0.001 for far longer runs).
BIAS_STEP = 0.005
CELL_WEIGHT = 0.5  # of what is seen, beside the answers


class LookingCollator:
    """Pixels and labels of pictures without questions."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, rows: Sequence[dict[str, Any]]) -> BatchFeature:
        """`pixel_values` and labels of the rows' views."""
        seen = self.processor.image_processor([row["picture"] for row in rows], return_tensors="pt")
        per_picture = seen["pixel_values"].split([num_tiles(*grid) for grid in seen["tile_grids"].tolist()])
        chosen = [pixels[row["views"]] for pixels, row in zip(per_picture, rows, strict=True)]
        batch = BatchFeature({"pixel_values": torch.cat(chosen)})
        batch.update(stack_labels([labels for row in rows for labels in row["labels"]]))
        return batch


class AnsweringCollator:
    """Batches of `sharing.share`, with each picture once.

    Args:
        processor: of the model.
        cells: whether they have the labels of `cells`, too.
    """

    def __init__(self, processor: Any, cells: bool = False) -> None:
        self.cells = cells
        self.tokenizer, self.image_token_id = processor.tokenizer, processor.image_token_id
        self.collate = ConversationCollator(processor)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> BatchFeature:
        """One batch."""
        batch = self.collate([{"messages": row["messages"]} for row in rows])
        batch["boxes"] = stack_clues(self.tokenizer, batch["input_ids"], batch["labels"])
        pictures = [tuple(map(id, row["images"])) for row in rows]
        found = find_trees(batch["input_ids"], batch["attention_mask"], self.image_token_id, pictures)
        trees = in_rows(found)
        pointed = find_pointers(self.tokenizer, batch, rows, self.image_token_id)
        tiles = batch["pixel_values"].split([num_tiles(*grid) for grid in batch["tile_grids"].tolist()])
        starts = [*accumulate((len(each) for each in pictures), initial=0)]
        first = [tree.rows[0] for row in trees for tree in row]
        numbers = [number for row in first for number in range(starts[row], starts[row + 1])]
        seen = {
            "pixel_values": torch.cat([tiles[number] for number in numbers]),
            "tile_grids": batch["tile_grids"][numbers],
        }
        shared = share(batch, trees)
        looks = stack_pointers(pointed, places(trees), shared["input_ids"].shape[1])
        labels = [each for row in first for each in _labels(rows[row]["pictures"])] if self.cells else []
        return BatchFeature({**shared, **seen, **looks, **(stack_labels(labels) if labels else {})})


def _labels(pictures: Sequence[Picture]) -> list[Labels]:
    return [label_views(picture, tiled=len(pictures) < UNTILED) for picture in pictures]


class NanoVL2Trainer(NanoTrainer):
    """A `Trainer` whose model looks with a `cell_head`, at batches with the labels of `cells`, and answers without.

    Attributes:
        watch: sees the attention that is told where to look.
        projected: what the projector gave last, [views, tokens, hidden].
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.watch = Watch()
        self.projected: torch.Tensor | None = None
        super().__init__(*args, **kwargs)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The loss of the cells; where there are questions, that of the answers and the clues, too."""
        if "input_ids" not in inputs:
            with self.accelerator.autocast():  # else only `forward` runs in bfloat16, and these are other methods
                seen = model.model.vision_model(inputs.pop("pixel_values")).last_hidden_state
                return self._cell_loss(model, model.model.projector(seen), inputs)
        # First the tower stays as looking left it: gradients of first answers, which are guesses, harm it.
        learns = next(model.model.projector.parameters()).requires_grad
        with self.accelerator.autocast(), torch.set_grad_enabled(learns):
            features = model.model.get_image_features(inputs.pop("pixel_values"), inputs.pop("tile_grids"))
        inputs["mm_encoder_outputs"] = {"image": features}
        asked = {name: inputs.pop(name) for name in ("boxes", *CLUES)}
        looks = {name: inputs.pop(name) for name in ("lookers", "looked_at", "looks")}
        labels = {name: inputs.pop(name) for name in LABELS if name in inputs}
        with balanced(model, inputs.pop("members")):
            answers, outputs = Trainer.compute_loss(self, model, inputs, True, num_items_in_batch)
        with self.accelerator.autocast():
            clues = model.clue_head.losses(lookers=looks["lookers"], **asked)
            told = {name: self.watch.loss(layer, **looks) for name, layer in TOLD.items()}
            cells = self._cell_loss(model, self.projected, labels) if labels else answers.new_zeros(())
        self.add_up("answer_loss", answers)
        for name, value in {**clues, **told}.items():
            self.add_up(f"{name}_loss", value)
        loss = answers + CLUE_WEIGHT * sum(clues.values()) + POINTER_WEIGHT * sum(told.values()) + CELL_WEIGHT * cells
        return (loss, outputs) if return_outputs else loss

    def see_projected(self, projector: torch.nn.Module, inputs: Any, outputs: torch.Tensor) -> None:
        """A forward hook of the projector."""
        self.projected = outputs

    def _cell_loss(self, model: Any, projected: Any, labels: dict[str, torch.Tensor]) -> torch.Tensor:
        losses = model.cell_head.losses(projected, **labels)
        for name, value in losses.items():
            self.add_up(name, value)
        return torch.stack([*losses.values()]).sum()


@contextmanager
def balanced(model: Any, members: torch.Tensor) -> Iterator[None]:
    """Counts the experts that tokens choose meanwhile, and moves the correction biases towards even shares.

    Args:
        model: whose routers are meant.
        members: a mask of the tokens that count.
    """
    members = members.flatten()
    routers = [module for module in model.modules() if isinstance(module, DeepseekMoeRouter)]

    def count(router: DeepseekMoeRouter, inputs: Any, outputs: Any) -> None:
        chosen = outputs[2][members].flatten().bincount(minlength=len(router.e_score_correction_bias)).float()
        router.e_score_correction_bias += BIAS_STEP * (chosen.mean() - chosen).sign()

    # While another layer learns from the model, it stays as it is.
    learns = model.training and model.get_input_embeddings().weight.requires_grad
    hooks = [router.register_forward_hook(count) for router in routers] if learns else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

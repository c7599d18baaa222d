"""The base class of all models here: what transformers asks of every model, in one place."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .loading import check_before_opening, check_files_now, loading, loads_strictly, patterns_ignored_now
from .quantizer import ParameterQuantizer

# Buffers that old files hold and that are computed today; transformers never speaks of them.
COMPUTED = r"rotary_emb\.inv_freq|(^|\.)position_ids$"


@dataclass(frozen=True)
class LoadedWeights:
    """What became of a checkpoint's tensors.

    Attributes:
        source: what `from_pretrained` got; None where the tensors came from memory.
        missing: names in the model that no file has a tensor for.
        unexpected: names in the files that the model has no place for.
        mismatched: names in both, with the shape in the files and the shape in the model.
        failed: names in the model whose tensors could not be made of those in the files, with the reason.
        quantized_elsewhere: whether the files hold weights that another library quantized, under names of its own.
        strict: whether tensors may be neither missing nor unexpected.
    """

    source: Any
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, Any, Any], ...]
    failed: tuple[tuple[str, str], ...]
    quantized_elsewhere: bool
    strict: bool


class HfModel(PreTrainedModel):
    """A `PreTrainedModel` whose hooks have public names.

    transformers calls `_init_weights`, torch `_apply`; a subclass overrides `init_own_weights` and `while_moving`.
    While a checkpoint is loaded, `check_loaded` is called with what was found.
    The class attributes with an underscore are transformers' contract with every model. `_no_split_modules`,
    `_tied_weights_keys` and `_tp_plan` name a model's own layers, so subclasses set them.
    """

    supports_gradient_checkpointing = True
    # Whether layers of it dispatch through the experts interface.
    has_experts = False
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def init_own_weights(self, module: nn.Module) -> None:
        """Fills a module's fresh parameters, for training from scratch, where transformers' rules know no better."""

    @contextmanager
    def while_moving(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
        """Active while `fn` is applied to all tensors, as `to`, `half` or `cuda` do."""
        yield

    @classmethod
    def stored_conversions(cls) -> list[Any]:
        """How tensors in files become those in memory, in files of the transformers layout; saving turns it round."""
        return []

    def check_loaded(self, found: LoadedWeights) -> None:
        """Raises an error where a checkpoint does not fit the model, before anything is filled with random numbers."""

    @classmethod
    def from_pretrained(cls, *args: Any, strict: bool = True, **kwargs: Any) -> Any:
        """See transformers' `PreTrainedModel.from_pretrained`; `strict` reaches `check_loaded`."""
        check_before_opening(cls, kwargs.get("pretrained_model_name_or_path", args[0] if args else None), kwargs)
        with loading(cls, strict):
            result = super().from_pretrained(*args, **kwargs)
        (result[0] if isinstance(result, tuple) else result)._forget_names_in_files()
        return result

    def post_init(self) -> None:
        """See transformers; while a checkpoint is loaded, names that are left aside on purpose need no warning.

        Of the layers to be kept whole, which a model has from its parts, those are left out that it has not: accelerate
        looks each of them up before it spreads a model over processes.
        """
        super().post_init()
        classes = {type(module).__name__ for module in self.modules()}
        self._no_split_modules: Any = set(self._no_split_modules or ()) & classes
        self._keys_to_ignore_on_load_unexpected |= patterns_ignored_now(type(self))
        self._forget_names_in_files()

    def _forget_names_in_files(self) -> None:
        """Has the model saved in the transformers layout, under its own names, whatever it was read from.

        transformers would turn the conversions round with which it was loaded. Of the originals' it makes names that
        nothing reads, because the turned patterns also catch other layers.
        """
        self._weight_conversions: Any = self.stored_conversions()

    @staticmethod
    def _load_pretrained_model(
        model: Any, state_dict: Any, checkpoint_files: Any, load_config: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if state_dict is None and checkpoint_files:
            index = load_config.sharded_metadata or {}
            check_files_now(type(model), checkpoint_files, index.get("weight_map"), holds_quantized(load_config))
        return PreTrainedModel._load_pretrained_model(model, state_dict, checkpoint_files, load_config, *args, **kwargs)

    @staticmethod
    def _finalize_model_loading(model: Any, load_config: Any, loading_info: Any) -> Any:
        ignored = "|".join([*(model._keys_to_ignore_on_load_unexpected or ()), COMPUTED])
        model.check_loaded(
            LoadedWeights(
                load_config.pretrained_model_name_or_path,
                tuple(sorted(without_tied(loading_info.missing_keys, model.all_tied_weights_keys))),
                tuple(sorted(name for name in loading_info.unexpected_keys if not re.search(ignored, name))),
                () if load_config.ignore_mismatched_sizes else tuple(sorted(loading_info.mismatched_keys)),
                tuple(sorted(loading_info.conversion_errors.items())),
                holds_quantized(load_config) and not isinstance(load_config.hf_quantizer, ParameterQuantizer),
                loads_strictly(),
            )
        )
        return PreTrainedModel._finalize_model_loading(model, load_config, loading_info)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        self.init_own_weights(module)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        with self.while_moving(fn):
            return super()._apply(fn, recurse)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # transformers would look into the source of the class's module

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return cls.has_experts  # the same


def holds_quantized(load_config: Any) -> bool:
    """Whether the files that are loaded hold quantized weights already."""
    return load_config.hf_quantizer is not None and bool(load_config.hf_quantizer.pre_quantized)


def without_tied(missing: set[str], tied: Mapping[str, str]) -> set[str]:
    """The missing names without those that share a tensor with one that is there.

    Args:
        missing: names in the model.
        tied: of names in the model the name whose tensor they share.
    """
    present = {name for pair in tied.items() if not set(pair) <= missing for name in pair}
    return missing - present

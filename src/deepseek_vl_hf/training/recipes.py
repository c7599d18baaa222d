"""What learns: the stages of both papers, all weights, or adapters beside them.

All families are made of the same parts, as far as they have them; a recipe names those that learn. The figures are
those of arXiv 2403.05525 (DeepSeek-VL, table 4) and 2412.10302 (DeepSeek-VL2, table 2).
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..hf.zero import size_of

SIGLIP, SAM, ALIGNER, LANGUAGE, ADAPTERS = "SigLIP or CLIP tower", "SAM tower", "aligner", "language model", "adapters"
# Of which part a parameter is, by the first of these names in its own. The original counts everything after SAM up to
# the aligner as SAM's.
PARTS = {
    "vision_model": SIGLIP,
    "high_res_vision_model": SAM,
    "high_res_vision_neck": SAM,
    "high_res_vision_proj": SAM,
    "high_res_vision_alpha": SAM,
    "aligner": ALIGNER,
    "projector": ALIGNER,
    "image_newline": ALIGNER,
    "view_separator": ALIGNER,
    "language_model": LANGUAGE,
    "lm_head": LANGUAGE,
}
EVERYTHING = frozenset(PARTS.values())
VL_STAGES = {1: frozenset({ALIGNER}), 2: frozenset({ALIGNER, LANGUAGE}), 3: EVERYTHING - {SAM}}
VL2_STAGES = {1: frozenset({SIGLIP, ALIGNER}), 2: EVERYTHING, 3: EVERYTHING}
LAST_STAGE = 3
# Learning rates of the stages 1, 2 and 3. Of VL2 by the width of the language model: tiny, small, base.
VL_RATES = {"deepseek_vl": (1e-3, 3e-5, 2e-5), "deepseek_vl_hybrid": (1e-3, 4.2e-5, 2e-5)}
VL2_RATES = {1280: (5.4e-4, 5.4e-4, 3e-5), 2048: (4.2e-4, 4.2e-4, 1.4e-5), 2560: (4.5e-4, 4.5e-4, 2e-5)}
WITHOUT_STAGES = ("deepseek_ocr",)
VL2_WEIGHT_DECAY = 0.1
# Of VL2's tower in its stages, as a share of the others' learning rate.
VL2_TOWER_SHARE = 0.1
# Of adapters: what QLoRA found for models of 7 and 13 billion weights (arXiv 2305.14314).
LORA_RATE = 2e-4


@dataclass(frozen=True)
class Recipe:
    """What a run teaches; exactly one of the first three is given.

    Attributes:
        lora: rank of adapters beside the language model's weights, which themselves stay as they are.
        stage: 1, 2 or 3.
        full: whether every weight learns.
        int4: whether the language model beside the adapters has 4-bit weights.
        experts: whether DeepSeek-VL2's routed experts get adapters, too.

    Raises:
        ValueError: none or several of them, or something that is for adapters alone without them.
    """

    lora: int | None = None
    stage: int | None = None
    full: bool = False
    int4: bool = False
    experts: bool = False

    def __post_init__(self) -> None:
        given = [f"--{name}" for name in ("lora", "stage", "full") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"Found {' and '.join(given) or 'no recipe'}; expected one of --lora, --stage and --full.")
        alone = [f"--{name}" for name in ("int4", "experts") if getattr(self, name)]
        if alone and not self.lora:
            raise ValueError(f"Found {alone[0]} with {given[0]}; it is for adapters. Leave it out, or pass --lora.")

    def parts(self, model_type: str) -> frozenset[str]:
        """The parts of a model whose own weights learn; none beside adapters.

        Raises:
            ValueError: a stage of a model that has none.
        """
        if self.lora:
            return frozenset()
        if self.stage and model_type in WITHOUT_STAGES:
            raise ValueError(
                f"Found --stage {self.stage} for {model_type}, whose authors trained in another way (arXiv 2510.18234, "
                "section 3.5). Pass --lora N or --full."
            )
        stages = VL_STAGES if model_type in VL_RATES else VL2_STAGES
        return stages[self.stage] if self.stage else EVERYTHING

    def learning_rate(self, config: Any) -> float:
        """Of a stage as published, of all weights that of the last stage, of adapters `LORA_RATE`."""
        if self.lora:
            return LORA_RATE
        rates = VL_RATES.get(config.model_type) or VL2_RATES.get(config.text_config.hidden_size, VL2_RATES[1280])
        return rates[(self.stage or LAST_STAGE) - 1]

    def weight_decay(self, config: Any) -> float:
        """As published; none of adapters, which begin at zero."""
        return 0.0 if self.lora or config.model_type in VL_RATES else VL2_WEIGHT_DECAY

    def tower_share(self, config: Any) -> float:
        """The SigLIP tower's learning rate as a share of the others'."""
        return VL2_TOWER_SHARE if self.stage and config.model_type not in VL_RATES else 1.0

    def learns_routing(self, config: Any) -> bool:
        """Whether DeepSeek-VL2's routers learn, so that the balance loss keeps all experts in use."""
        return config.model_type not in VL_RATES and LANGUAGE in self.parts(config.model_type)

    def needs_pictures(self, model_type: str) -> bool:
        """Whether a row without pictures has nothing to teach, because nothing behind them learns."""
        return not self.lora and LANGUAGE not in self.parts(model_type)


@dataclass(frozen=True)
class Part:
    """One line of the table of what learns.

    Attributes:
        name: of the part.
        parameters: how many it has.
        learning: how many of them learn.
    """

    name: str
    parameters: int
    learning: int


def part_of(name: str) -> str:
    """The part to which a parameter belongs, by its name in a generation model, with or without adapters."""
    if "lora_" in name:
        return ADAPTERS
    return next(PARTS[word] for word in name.split(".") if word in PARTS)


def set_what_learns(model: nn.Module, parts: frozenset[str]) -> None:
    """Freezes a generation model's parameters but for those of some parts.

    Args:
        model: of this package, without adapters.
        parts: that learn, by the names of this module.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in parts)


def table_of_parts(model: nn.Module) -> list[Part]:
    """How many parameters of each part there are, and how many of them learn; 4-bit weights count as what they are."""
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        count = counts.setdefault(part_of(name), [0, 0])
        count[0] += size_of(parameter)
        count[1] += size_of(parameter) if parameter.requires_grad else 0
    return [Part(name, *counts[name]) for name in (*dict.fromkeys(PARTS.values()), ADAPTERS) if name in counts]

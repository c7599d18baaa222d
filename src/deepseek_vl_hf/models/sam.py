"""The high-resolution encoder: SAM's image encoder (arXiv 2304.02643, section 3; ViTDet, arXiv 2203.16527), exact.

    pixel_values [images, 3, 1024, 1024]
      --patch_embed, pos_embed--> [images, 64, 64, 768]
      --layers-->                 [images, 64, 64, 768]   windows of 14 x 14; layers 2, 5, 8, 11 see the whole grid
      --neck-->                   [images, 256, 64, 64]

The weights are named as in transformers' `SamVisionModel`, and its config class is used. The attention is our own, see
`grid_attention`. Pictures of other sides than the config's get their positions resized; a family that has one side
refuses others by itself.
"""

from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedConfig, SamVisionConfig
from transformers.activations import ACT2FN

from ..hf.layers import GradientCheckpointingLayer, init
from ..hf.model import HfModel
from .grid_attention import biased_attention, from_windows, relative_position_bias, to_windows
from .positions import resize_positions

# Tokens whose wide hidden layer exists at once on a CPU, so that its memory is used again.
CPU_TOKENS = 1024


class SamEncoderOutput(NamedTuple):
    """What the encoder returns. A tuple, in which FSDP and DeepSpeed find the tensors that backward begins with.

    Attributes:
        last_hidden_state: [images, output channels, grid, grid], after the neck.
        first_global_hidden_state: [images, grid, grid, width], after the first whole-grid layer.
        hidden_states: [images, grid, grid, width] of the embedding and of each layer, on request.
    """

    last_hidden_state: torch.Tensor
    first_global_hidden_state: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None


def check_sam_config(config: PreTrainedConfig) -> None:
    """Raises ValueError where a config asks for something that this encoder does not have."""
    expected = {"use_abs_pos": True, "use_rel_pos": True, "qkv_bias": True, "attention_dropout": 0.0}
    for name, value in expected.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"high_res_vision_config.{name} is {getattr(config, name)!r}; this encoder has {value!r}, like every "
                "published checkpoint."
            )
    if config.image_size % config.patch_size:
        raise ValueError(
            f"high_res_vision_config.image_size {config.image_size} is not a multiple of the patch size "
            f"{config.patch_size}. Use a side that the patches fill, such as "
            f"{config.image_size // config.patch_size * config.patch_size}."
        )
    if config.window_size < 1:
        raise ValueError(f"high_res_vision_config.window_size is {config.window_size}; expected at least 1.")
    if not config.global_attn_indexes:
        raise ValueError(
            "high_res_vision_config.global_attn_indexes is empty; the second neck reads the first of them."
        )


class SamPatchEmbeddings(nn.Module):
    """[images, 3, side, side] -> [images, grid, grid, width]."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.projection = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_size, config.patch_size)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """One vector per patch."""
        features = self.projection(pixel_values.to(self.projection.weight.dtype))
        return features.permute(0, 2, 3, 1).contiguous()  # else every layer would inherit the order of channels first


class SamAttention(nn.Module):
    """Multi-head attention over a grid, with decomposed relative positions."""

    def __init__(self, config: PreTrainedConfig, grid: int) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // self.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid - 1, self.head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid - 1, self.head_dim))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[batch, height, width, width of the model] -> the same."""
        batch, height, width, _ = hidden_states.shape
        qkv = self.qkv(hidden_states).reshape(batch, height * width, 3, self.num_heads, self.head_dim)
        # [3, batch * heads, height * width, head width], contiguous: else each block of queries would copy all keys
        query, key, value = qkv.permute(2, 0, 3, 1, 4).flatten(1, 2).contiguous().unbind(0)
        row_bias, column_bias = relative_position_bias(query, self.rel_pos_h, self.rel_pos_w, height, width)
        attended = biased_attention(query, key, value, row_bias, column_bias, self.head_dim**-0.5)
        heads = attended.reshape(batch, self.num_heads, height, width, self.head_dim)
        return self.proj(heads.permute(0, 2, 3, 1, 4).flatten(3))


class SamMLP(nn.Module):
    """Two linear layers with the activation between them."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.lin1 = nn.Linear(config.hidden_size, config.mlp_dim)
        self.activation = ACT2FN[config.hidden_act]
        self.lin2 = nn.Linear(config.mlp_dim, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[..., width] -> the same."""
        tokens = hidden_states.flatten(0, -2)
        parts = tokens.split(CPU_TOKENS) if tokens.device.type == "cpu" else (tokens,)
        outputs = [self.lin2(self.activation(self.lin1(part))) for part in parts]
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).view(hidden_states.shape)


class SamLayer(GradientCheckpointingLayer):
    """Attention in windows or over the whole grid, then the MLP; both after a LayerNorm and beside a residual."""

    def __init__(self, config: PreTrainedConfig, window_size: int | None) -> None:
        super().__init__()
        self.window_size = window_size
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = SamAttention(config, window_size or config.image_size // config.patch_size)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SamMLP(config)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[images, grid, grid, width] -> the same."""
        hidden_states = hidden_states + self._attend(self.layer_norm1(hidden_states))
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))

    def _attend(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.window_size is None:
            return self.attn(hidden_states)
        # The padding comes after the LayerNorm and is not masked: padded places take part through the qkv bias.
        height, width = hidden_states.shape[1:3]
        return from_windows(self.attn(to_windows(hidden_states, self.window_size)), height, width)


class ChannelsFirstLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of [images, channels, height, width]."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[images, channels, height, width] -> the same."""
        return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SamNeck(nn.Module):
    """A 1 x 1 and a 3 x 3 convolution, each followed by a LayerNorm over the channels."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        channels = config.output_channels
        self.conv1 = nn.Conv2d(config.hidden_size, channels, kernel_size=1, bias=False)
        self.layer_norm1 = ChannelsFirstLayerNorm(channels, eps=1e-6)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.layer_norm2 = ChannelsFirstLayerNorm(channels, eps=1e-6)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[images, grid, grid, width] -> [images, output channels, grid, grid]."""
        features = self.layer_norm1(self.conv1(hidden_states.permute(0, 3, 1, 2)))
        return self.layer_norm2(self.conv2(features))


class SamVisionEncoder(nn.Module):
    """Patches, positions, layers and neck."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        grid = config.image_size // config.patch_size
        self.first_global_layer = min(config.global_attn_indexes)
        self.patch_embed = SamPatchEmbeddings(config)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, config.hidden_size))
        self.layers = nn.ModuleList(
            SamLayer(config, None if layer in config.global_attn_indexes else config.window_size)
            for layer in range(config.num_hidden_layers)
        )
        self.neck = SamNeck(config)

    def forward(self, pixel_values: torch.Tensor, output_hidden_states: bool = False) -> SamEncoderOutput:
        """See `SamEncoder.forward`."""
        hidden_states = self.patch_embed(pixel_values)
        hidden_states = hidden_states + resize_positions(self.pos_embed, *hidden_states.shape[1:3])
        states = [hidden_states]
        first_global = hidden_states
        for number, layer in enumerate(self.layers):
            hidden_states = layer(hidden_states)
            if number == self.first_global_layer:
                first_global = hidden_states
            if output_hidden_states:
                states.append(hidden_states)
        return SamEncoderOutput(self.neck(hidden_states), first_global, tuple(states) if output_hidden_states else None)


class SamEncoder(HfModel):
    """The encoder under the name that transformers' weights have, `vision_encoder`.

    It accepts every `attn_implementation`, because it keeps its own path whatever the rest of the model uses.

    Args:
        config: a `SamVisionConfig`.

    Raises:
        ValueError: the config asks for something that no published checkpoint has.
    """

    config_class = SamVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    base_model_prefix = ""
    _no_split_modules = ["SamVisionEncoder"]

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        check_sam_config(config)
        self.vision_encoder = SamVisionEncoder(config)
        self.post_init()

    def init_own_weights(self, module: nn.Module) -> None:
        """For training from scratch: relative positions start at zero, as in SAM."""
        if isinstance(module, SamVisionEncoder):
            init.normal_(module.pos_embed, std=0.02)
        elif isinstance(module, SamAttention):
            init.zeros_(module.rel_pos_h)
            init.zeros_(module.rel_pos_w)

    def forward(self, pixel_values: torch.Tensor, output_hidden_states: bool = False) -> SamEncoderOutput:
        """Encodes images.

        Args:
            pixel_values: [images, 3, side, side], of a side that the patches fill.
            output_hidden_states: whether to keep every layer's output.
        """
        return self.vision_encoder(pixel_values, output_hidden_states)

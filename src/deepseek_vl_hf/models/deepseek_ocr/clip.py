"""CLIP's layers (arXiv 2103.00020) on the features of another tower, as DeepSeek-OCR has them.

    features [images, width, grid, grid]
      --class token in front, positions--> [images, 1 + grid * grid, width]
      --pre_layrnorm, layers-->            [images, 1 + grid * grid, width]
      --without the class token-->         [images, grid * grid, width]

The weights are named as in transformers' `CLIPVisionModel`, which reads pixels only and resizes its positions another
way. There is no last LayerNorm and no pooling.
"""

import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPVisionConfig
from transformers.activations import ACT2FN

from ...hf.layers import GradientCheckpointingLayer, init
from ...hf.model import HfModel
from ..positions import resize_positions


class ClipEmbeddings(nn.Module):
    """Class token and positions."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.grid = config.image_size // config.patch_size
        self.class_embedding = nn.Parameter(torch.empty(config.hidden_size))
        self.position_embedding = nn.Embedding(1 + self.grid**2, config.hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[images, width, grid, grid] -> [images, 1 + grid * grid, width]."""
        tokens = features.flatten(2).transpose(1, 2)
        first = self.class_embedding.to(tokens.dtype).expand(len(tokens), 1, -1)
        return torch.cat([first, tokens], 1) + self._positions(features.shape[-2], features.shape[-1])

    def _positions(self, height: int, width: int) -> torch.Tensor:
        """[1 + height * width, width of the model]; the class token's is never resized."""
        # By the layer's own call, before which an offloaded table is fetched.
        weight = self.position_embedding(torch.arange(1 + self.grid**2, device=self.class_embedding.device))
        grid = weight[1:].unflatten(0, (1, self.grid, self.grid))
        return torch.cat([weight[:1], resize_positions(grid, height, width).flatten(0, 2)])


class ClipAttention(nn.Module):
    """Multi-head attention without a mask."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[images, tokens, width] -> the same."""
        query, key, value = (
            project(hidden_states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class ClipMLP(nn.Module):
    """Two linear layers with the activation between them."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[images, tokens, width] -> the same."""
        return self.fc2(self.activation(self.fc1(hidden_states)))


class ClipLayer(GradientCheckpointingLayer):
    """Attention, then the MLP; both after a LayerNorm and beside a residual."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = ClipAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ClipMLP(config)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[images, tokens, width] -> the same."""
        hidden_states = hidden_states + self.self_attn(self.layer_norm1(hidden_states))
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class ClipStack(nn.Module):
    """The layers, under the name that transformers' weights have."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ClipLayer(config) for _ in range(config.num_hidden_layers))


class ClipFeatureEncoder(HfModel):
    """CLIP's layers on a grid of features.

    It accepts every `attn_implementation`, because it keeps its own path whatever the rest of the model uses.

    Args:
        config: a `CLIPVisionConfig`; its patches are those of the table of positions.
    """

    config_class = CLIPVisionConfig
    main_input_name = "features"
    input_modalities = ("image",)
    base_model_prefix = ""
    _no_split_modules = ["ClipLayer"]

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(config)
        self.embeddings = ClipEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = ClipStack(config)
        self.post_init()

    def init_own_weights(self, module: nn.Module) -> None:
        """For training from scratch: the class token as small as the positions."""
        if isinstance(module, ClipEmbeddings):
            init.normal_(module.class_embedding, std=self.config.initializer_range)

    def forward(self, features: torch.Tensor, output_hidden_states: bool = False) -> tuple[torch.Tensor, ...]:
        """Runs the layers.

        Args:
            features: [images, width, grid, grid].
            output_hidden_states: whether to return the embedding's and every layer's output as well.

        Returns:
            [images, 1 + grid * grid, width] after each step that was asked for; the last one alone by default. The
            class token is the first.
        """
        hidden_states = self.pre_layrnorm(self.embeddings(features))
        states = [hidden_states]
        for layer in self.encoder.layers:
            hidden_states = layer(hidden_states)
            states.append(hidden_states)
        return tuple(states) if output_hidden_states else (hidden_states,)

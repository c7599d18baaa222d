"""The high-resolution encoder against plain formulas that are slow but easy to read."""

from functools import partial

import pytest
import torch
from torch.nn import functional
from transformers import SamVisionConfig

from deepseek_vl_hf.models import grid_attention, sam

# float32; another order of the same sums: measured 4e-7 relative.
TOLERANCE = 1e-5


def config(**kwargs):
    sizes = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2, "output_channels": 8}
    sizes |= {"image_size": 512, "global_attn_indexes": [1, 3]}
    return SamVisionConfig(**{**sizes, **kwargs})


def encoder(**kwargs):
    torch.manual_seed(0)
    model = sam.SamEncoder(config(**kwargs)).eval()
    for parameter in model.parameters():
        # Relative positions and the positions start at zero; here they must matter.
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def plain_attention(attention, grid):
    """One head and one query at a time, for [height, width, channels]."""
    height, width, _ = grid.shape
    qkv = attention.qkv(grid).reshape(height, width, 3, attention.num_heads, attention.head_dim)
    output = torch.zeros(height, width, attention.num_heads, attention.head_dim)
    rows, columns = torch.arange(height), torch.arange(width)
    for head in range(attention.num_heads):
        query, key, value = qkv[:, :, 0, head], qkv[:, :, 1, head], qkv[:, :, 2, head]
        for r in range(height):
            for c in range(width):
                scores = (query[r, c] * attention.head_dim**-0.5 * key).sum(-1)
                by_row = attention.rel_pos_h[r - rows + height - 1] @ query[r, c]
                by_column = attention.rel_pos_w[c - columns + width - 1] @ query[r, c]
                scores = scores + by_row[:, None] + by_column[None, :]
                weights = scores.flatten().softmax(-1)
                output[r, c, head] = weights @ value.flatten(0, 1)
    return attention.proj(output.flatten(2))


def plain_layer(layer, grid):
    """[height, width, channels]; windows by slicing, padded with zeros after the LayerNorm."""
    normed = layer.layer_norm1(grid)
    if layer.window_size is None:
        attended = plain_attention(layer.attn, normed)
    else:
        height, width, channels = grid.shape
        size = layer.window_size
        attended = torch.zeros_like(grid)
        for top in range(0, height, size):
            for left in range(0, width, size):
                window = torch.zeros(size, size, channels)
                part = normed[top : top + size, left : left + size]
                window[: part.shape[0], : part.shape[1]] = part
                result = plain_attention(layer.attn, window)[: part.shape[0], : part.shape[1]]
                attended[top : top + size, left : left + size] = result
    grid = grid + attended
    return grid + layer.mlp(layer.layer_norm2(grid))


@torch.no_grad()
@pytest.mark.parametrize("side", [224, 256, 176], ids=["fits one window", "is padded", "below one window"])
def test_encoder_equals_the_plain_formula(side, relative):
    model = encoder(image_size=side).vision_encoder
    pixels = torch.randn(2, 3, side, side)
    found = model(pixels, output_hidden_states=True)
    for image in range(2):
        patches = functional.unfold(pixels[image : image + 1], 16, stride=16)[0].T
        projection = model.patch_embed.projection
        grid = patches @ projection.weight.flatten(1).T + projection.bias
        grid = grid.reshape(side // 16, side // 16, -1) + model.pos_embed[0]
        for number, layer in enumerate(model.layers):
            grid = plain_layer(layer, grid)
            assert relative(found.hidden_states[number + 1][image], grid) <= TOLERANCE, number
            if number == 1:
                assert relative(found.first_global_hidden_state[image], grid) <= TOLERANCE


@torch.no_grad()
def test_attention_of_windows_and_of_the_whole_grid_reads_all_keys(relative):
    """Grids larger than one block of queries, and odd ones."""
    for height, width in ((16, 16), (13, 11), (1, 5)):
        batch, heads = 3, 5
        query, key, value = torch.randn(3, batch, height * width, heads)
        row_table, column_table = torch.randn(2 * height - 1, heads), torch.randn(2 * width - 1, heads)
        row_bias, column_bias = grid_attention.relative_position_bias(query, row_table, column_table, height, width)
        found = grid_attention.biased_attention(query, key, value, row_bias, column_bias, 0.3)
        rows, columns = torch.arange(height * width) // width, torch.arange(height * width) % width
        bias = torch.einsum("bqd,qkd->bqk", query, row_table[rows[:, None] - rows[None] + height - 1])
        bias += torch.einsum("bqd,qkd->bqk", query, column_table[columns[:, None] - columns[None] + width - 1])
        weights = (0.3 * query @ key.transpose(1, 2) + bias).softmax(-1)
        assert relative(found, weights @ value) <= TOLERANCE


@pytest.mark.parametrize("grid", [(14, 14), (20, 20)])
def test_gradients_of_attention_equal_those_of_the_plain_formula(grid, monkeypatch):
    """In float64: of the product with folded biases, and of blocks that are added to theirs in place."""
    monkeypatch.setattr(grid_attention, "CPU_SCORES", 50_000)
    monkeypatch.setattr(grid_attention, "QUERY_BLOCK", 48)
    height, width = grid
    shapes = [(2, height * width, size) for size in (8, 8, 8, height, width)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    query, key, value, rows, columns = inputs
    weight = torch.randn(2, height * width, 8, dtype=torch.float64)
    found = torch.autograd.grad((grid_attention.biased_attention(*inputs, 0.3) * weight).sum(), inputs)
    bias = (rows.unsqueeze(-1) + columns.unsqueeze(-2)).flatten(-2)
    plain = (0.3 * query @ key.transpose(1, 2) + bias).softmax(-1) @ value
    for one, other in zip(found, torch.autograd.grad((plain * weight).sum(), inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", [(14, 14), (20, 20)])
def test_no_scores_are_kept_for_the_gradients(grid):
    height, width = grid
    shapes = [(2, height * width, size) for size in (8, 8, 8, height, width)]
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.shape) or tensor, lambda kept: kept
    ):
        grid_attention.biased_attention(*inputs, 0.3)
    assert max(shape.numel() for shape in kept) <= max(each.numel() for each in inputs)


@torch.no_grad()
@pytest.mark.parametrize("grid", [(14, 14), (16, 16), (3, 7), (20, 20)])
def test_attention_in_bfloat16_is_as_exact_as_its_inputs(grid):
    """Up to LARGEST_FOLDED_GRID keys the biases are part of the product, beyond it they are added."""
    torch.manual_seed(0)
    height, width = grid
    query, key, value = torch.randn(3, 4, height * width, 32).bfloat16()
    row_bias, column_bias = torch.randn(4, height * width, height), torch.randn(4, height * width, width)
    row_bias, column_bias = row_bias.bfloat16(), column_bias.bfloat16()
    inputs = [part.float() for part in (query, key, value, row_bias, column_bias)]
    expected = grid_attention.biased_attention(*inputs, 0.3)
    found = grid_attention.biased_attention(query, key, value, row_bias, column_bias, 0.3)
    assert found.dtype == torch.bfloat16
    # In the norm; measured with 20 seeds at most 0.013. A scale of 0.29 instead of 0.3 gives 0.023 or more, biases that
    # are a tenth too small 0.031 or more.
    assert (found.float() - expected).norm() <= 0.018 * expected.norm()


@torch.no_grad()
def test_neck_equals_the_plain_formula(relative):
    """With small values, where the epsilon of the LayerNorms shows."""
    neck = sam.SamNeck(config())
    grid = torch.randn(1, 5, 6, 24) * 1e-3

    def norm(layer, features):  # over the channels, [channels, height, width]
        mean = features.mean(0, keepdim=True)
        variance = (features - mean).square().mean(0, keepdim=True)
        scale, shift = layer.weight[:, None, None], layer.bias[:, None, None]
        return (features - mean) / (variance + 1e-6).sqrt() * scale + shift

    features = torch.einsum("hwc,oc->ohw", grid[0], neck.conv1.weight[:, :, 0, 0])
    features = norm(neck.layer_norm1, features)
    features = functional.conv2d(features[None], neck.conv2.weight, padding=1)[0]
    assert relative(neck(grid)[0], norm(neck.layer_norm2, features)) <= TOLERANCE


def test_the_block_size_changes_nothing_but_memory(monkeypatch, relative):
    model, pixels = encoder(), torch.randn(1, 3, 512, 512)
    with torch.no_grad():
        expected = model(pixels).last_hidden_state
        for block, scores, tokens in ((1000, 1 << 30, 1 << 20), (100, 100_000, 100), (7, 1, 1)):
            monkeypatch.setattr(grid_attention, "QUERY_BLOCK", block)
            monkeypatch.setattr(grid_attention, "CPU_SCORES", scores)
            monkeypatch.setattr(sam, "CPU_TOKENS", tokens)
            assert relative(model(pixels).last_hidden_state, expected) <= TOLERANCE


@pytest.mark.parametrize(("height", "width"), [(14, 14), (28, 42), (32, 32), (5, 30)])
def test_windows_and_back(height, width):
    grid = torch.randn(2, height, width, 3)
    windows = grid_attention.to_windows(grid, 14)
    assert windows.shape == (2 * -(-height // 14) * -(-width // 14), 14, 14, 3)
    assert torch.equal(grid_attention.from_windows(windows, height, width), grid)
    assert torch.equal(windows[0, : min(height, 14), : min(width, 14)], grid[0, :14, :14])
    if height == 32:
        assert windows[2, :, 4:].abs().max() == 0


@torch.no_grad()
def test_padded_places_take_part(relative):
    """They are zero after the LayerNorm, but the bias of the qkv projection gives them keys and values."""
    layer = encoder(image_size=256).vision_encoder.layers[0]
    grid = torch.randn(1, 16, 16, 24)
    corner = grid[0, 14:, 14:]  # the last window holds 2 x 2 real places and 192 padded ones
    found = (layer(grid) - layer.mlp(layer.layer_norm2(grid + layer._attend(layer.layer_norm1(grid)))))[0, 14:, 14:]
    attention = layer.attn
    table = attention.rel_pos_h.data, attention.rel_pos_w.data
    attention.rel_pos_h.data, attention.rel_pos_w.data = (part[12:15] for part in table)
    masked = corner + plain_attention(attention, layer.layer_norm1(corner))
    attention.rel_pos_h.data, attention.rel_pos_w.data = table
    assert relative(found, masked) > 0.01


def test_gradients_flow_and_checkpointing_keeps_them():
    model, pixels = encoder(image_size=256), torch.randn(1, 3, 256, 256)
    model.train()

    def gradients():
        model.zero_grad()
        model(pixels).last_hidden_state.square().mean().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    plain = gradients()
    assert all(gradient.abs().max() > 0 for gradient in plain.values())
    layers = model.vision_encoder.layers
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
    for name, gradient in gradients().items():
        assert torch.allclose(gradient, plain[name], rtol=1e-4, atol=1e-7), name


def test_same_numbers_as_transformers_encoder(relative):
    """The same weights under the same names."""
    from transformers import SamVisionModel  # noqa: PLC0415

    ours = encoder()
    theirs = SamVisionModel(config(_attn_implementation="eager")).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    pixels = torch.randn(1, 3, 512, 512)
    with torch.no_grad():
        assert relative(ours(pixels).last_hidden_state, theirs(pixels).last_hidden_state) <= TOLERANCE


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_size", 500, r"image_size 500 is not a multiple of the patch size 16.*such as 496"),
        ("use_rel_pos", False, "use_rel_pos is False; this encoder has True"),
        ("use_abs_pos", False, "use_abs_pos is False"),
        ("qkv_bias", False, "qkv_bias is False"),
        ("attention_dropout", 0.1, "attention_dropout is 0.1"),
        ("window_size", 0, "window_size is 0; expected at least 1"),
        ("global_attn_indexes", [], "global_attn_indexes is empty"),
    ],
)
def test_configs_of_another_encoder(field, value, message):
    with pytest.raises(ValueError, match=message):
        sam.SamEncoder(config(**{field: value}))

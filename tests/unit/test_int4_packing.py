"""4-bit weights by themselves: their order in memory, products with few and many tokens, gradients."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from deepseek_vl_hf.quantization import packing, tensors
from deepseek_vl_hf.quantization.packing import Block, dequantized, kernel_order, pack, unpack
from deepseek_vl_hf.quantization.tensors import (
    MANY_TOKENS,
    MANY_TOKENS_IN_FLOAT32,
    MANY_TOKENS_OF_OTHER_TYPES,
    Int4CpuWeight,
    Int4Experts,
    Int4TilePackedTo4dTensor,
)
from family import relative_error

PACKAGE = Path(packing.__file__).parent.parent
# Whole blocks alone, a rest, a rest of one half block, less than a block.
ROWS = (128, 176, 96, 16)
# On both sides of every switch.
SWITCHES = (MANY_TOKENS_OF_OTHER_TYPES, MANY_TOKENS_IN_FLOAT32, MANY_TOKENS)
TOKENS = (1, *(switch + more for switch in SWITCHES for more in (-1, 0, 1)))


def by_hand(weight):
    """From the definition, [rows, columns] in float32: (value - 8) * scale + zero."""
    values = unpack(weight.qdata).float() - 8
    scale, zero = weight.scale_and_zero.float().transpose(0, 1)[..., None, :].unbind(-1)
    return (values.unflatten(1, (scale.shape[1], -1)) * scale + zero).flatten(1)


def taken_out(weight, dtype):
    """All blocks of `dequantized` in one, [rows, columns]."""
    blocks = dequantized(weight.qdata, weight.scale_and_zero, dtype)
    return torch.cat([block.sort(block.weights).T.clone() for block in blocks])


@pytest.mark.parametrize("rows", ROWS)
def test_packing_and_back(rows):
    values = torch.randint(16, (rows, 96), dtype=torch.uint8)
    assert torch.equal(unpack(pack(values)), values)


# The two modules by themselves: importing the package would take longer than all else.
PROGRAM = f"""
import sys, types, torch
for name in ("deepseek_vl_hf", "deepseek_vl_hf.hf", "deepseek_vl_hf.quantization"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [{str(PACKAGE)!r} + "/".join(["", *name.split(".")[1:]])]
from deepseek_vl_hf.quantization import packing
values = torch.randint(16, (176, 96), dtype=torch.uint8)
assert torch.equal(packing.unpack(packing.pack(values)), values)
print(packing.kernel_order())
"""


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_the_orders_of_other_processors(capability):
    """torch can be told to use the kernels of an older processor."""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "Order(rows=" in found.stdout


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_dequantized_weights_are_the_kernels(rows, group_size):
    """The kernel, given one unit vector after the other, spells out the weights that it uses."""
    weight = Int4CpuWeight.quantize(torch.randn(rows, 256), group_size)
    spelled = torch.ops.aten._weight_int4pack_mm_for_cpu(
        torch.eye(256), weight.qdata, group_size, weight.scale_and_zero
    )
    assert relative_error(taken_out(weight, torch.float32).T, spelled) < 1e-6


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dequantized_weights_are_rounded_once(rows, dtype, monkeypatch):
    """To the bit what the definition says, in one block or in many, in one slab or in many."""
    weight = Int4CpuWeight.quantize(torch.randn(rows, 256).to(dtype), 32)
    assert torch.equal(taken_out(weight, dtype), by_hand(weight).to(dtype))
    monkeypatch.setattr(packing, "BLOCK_WEIGHTS", 1)
    monkeypatch.setattr(packing, "SLAB_WEIGHTS", 64 * 32 * 3)
    assert torch.equal(taken_out(weight, dtype), by_hand(weight).to(dtype))


def test_blocks_cover_all_rows():
    weight = Int4CpuWeight.quantize(torch.randn(8192 + 48, 512), 128)
    rows = [block.rows for block in dequantized(weight.qdata, weight.scale_and_zero, torch.float32)]
    assert len(rows) > 2
    assert [part.start for part in rows] == [0, *(part.stop for part in rows[:-1])]
    assert rows[-1].stop == 8192 + 48


@pytest.mark.parametrize("neighbors", [False, True])
def test_sorting_and_back(neighbors):
    block = Block(slice(0, 24), torch.empty(0), 3, neighbors)
    taken = block.unsort(torch.arange(24))
    assert taken[:5].tolist() == ([0, 2, 4, 6, 8] if neighbors else [0, 1, 2, 3, 8])
    assert torch.equal(block.sort(taken), torch.arange(24))


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_products_on_both_sides_of_the_switches(bfloat16, dtype, bias, monkeypatch):
    """The number of tokens decides which way is taken; the numbers are those of weights taken out by hand."""
    monkeypatch.setattr(tensors, "onednn_has_bfloat16", lambda: bfloat16)
    weight = Int4CpuWeight.quantize(torch.randn(176, 256).to(dtype), 64)
    bias = torch.randn(176).to(dtype) if bias else None
    for tokens in TOKENS:
        inputs = torch.randn(2, tokens, 256).to(dtype)[:1]
        expected = functional.linear(inputs.float(), by_hand(weight), None if bias is None else bias.float())
        found = functional.linear(inputs, weight, bias)
        assert found.shape == (1, tokens, 176)
        assert found.dtype == dtype
        assert relative_error(found, expected) < (1e-5 if dtype == torch.float32 else 2e-2)


def test_quantization_is_near():
    weight = torch.randn(64, 256)
    for group_size, error in ((32, 0.085), (128, 0.11)):
        quantized = Int4CpuWeight.quantize(weight, group_size)
        # Sixteen steps over the range of a group of normal numbers; their rounding error is a step / sqrt(12).
        assert ((by_hand(quantized) - weight).norm() / weight.norm()).item() < error


@pytest.mark.parametrize("tokens", [3, MANY_TOKENS])
def test_gradients_reach_the_inputs(tokens):
    weight = Int4CpuWeight.quantize(torch.randn(176, 256), 64)
    plain = by_hand(weight)
    inputs, same = (torch.randn(1, tokens, 256, generator=torch.manual_seed(0)).requires_grad_() for _ in range(2))
    functional.linear(inputs, weight).square().sum().backward()
    functional.linear(same, plain).square().sum().backward()
    assert relative_error(inputs.grad, same.grad) < 1e-5


def test_another_type_of_inputs():
    weight = Int4CpuWeight.quantize(torch.randn(64, 64).bfloat16(), 32)
    with pytest.raises(
        TypeError, match=r"inputs in torch.float32 and a 4-bit weight whose scales are in torch.bfloat16"
    ):
        functional.linear(torch.randn(1, 64), weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert functional.linear(torch.randn(1, 64), weight).dtype == torch.bfloat16


def test_an_unknown_order(monkeypatch):
    """A future torch might pack otherwise: the kernel is then used for many tokens too, and saving is refused."""
    weight = Int4CpuWeight.quantize(torch.randn(64, 64), 32)
    inputs = torch.randn(MANY_TOKENS, 64)
    expected = functional.linear(inputs, weight)
    monkeypatch.setattr("deepseek_vl_hf.quantization.packing.ORDERS", ())
    kernel_order.cache_clear()
    try:
        assert kernel_order() is None
        assert relative_error(functional.linear(inputs, weight), expected) < 1e-5
        with pytest.raises(RuntimeError, match="packs 4-bit weights in an order that is not known here"):
            weight.to_plain()
    finally:
        kernel_order.cache_clear()


def test_plain_pairs_and_back():
    weight = Int4CpuWeight.quantize(torch.randn(176, 256), 64)
    again = Int4CpuWeight.from_plain(weight.to_plain(), weight.scale_and_zero)
    assert torch.equal(again.qdata, weight.qdata)
    assert (again.shape, again.block_size, again.dtype) == (weight.shape, weight.block_size, weight.dtype)


def test_experts():
    weights = [Int4CpuWeight.quantize(torch.randn(48, 64), 32) for _ in range(3)]
    experts = Int4Experts.stack(weights)
    assert (experts.shape, experts.dtype) == ((3, 48, 64), torch.float32)
    inputs = torch.randn(5, 64)
    for expert, weight in enumerate(weights):
        assert torch.equal(functional.linear(inputs, experts[expert]), functional.linear(inputs, weight))
        assert experts[expert].qdata.data_ptr() == experts.qdata[expert].data_ptr()
    copied = copy.deepcopy(torch.nn.Parameter(experts, requires_grad=False))
    assert torch.equal(copied[2].qdata, weights[2].qdata)


ON_AVX2 = """
import torch
from torch.nn import functional
from deepseek_vl_hf.quantization.packing import unpack
from deepseek_vl_hf.quantization.tensors import Int4CpuWeight, onednn_has_bfloat16
assert not onednn_has_bfloat16()
weight = Int4CpuWeight.quantize(torch.randn(176, 128).bfloat16(), 128)
scale, zero = weight.scale_and_zero[0, :, :, None].float().unbind(1)
plain = (unpack(weight.qdata).float() - 8) * scale + zero
for tokens in map(int, "%s".split()):
    inputs = torch.randn(tokens, 128).bfloat16().requires_grad_()
    same = inputs.detach().float().requires_grad_()
    result, expected = functional.linear(inputs, weight), functional.linear(same, plain)
    result.sum().backward(), expected.sum().backward()
    for pair in ((result, expected), (inputs.grad, same.grad)):
        assert (pair[0] - pair[1]).abs().max() / pair[1].abs().max() < 2e-2, tokens
"""


def test_a_processor_with_avx2_alone():
    """torch and oneDNN are told to be on one: the products are in float32 there."""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    program = ON_AVX2 % " ".join(map(str, TOKENS))
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    ("dtype", "bfloat16", "few", "expected"),
    [
        (torch.bfloat16, True, MANY_TOKENS - 1, torch.bfloat16),
        (torch.bfloat16, False, MANY_TOKENS_IN_FLOAT32 - 1, torch.float32),
        (torch.float32, True, MANY_TOKENS_OF_OTHER_TYPES - 1, torch.float32),
        (torch.float16, True, MANY_TOKENS_OF_OTHER_TYPES - 1, torch.float32),
    ],
)
def test_many_tokens_take_the_weights_out(monkeypatch, dtype, bfloat16, few, expected):
    """Guards the comparison above: the two ways must not be one, and the type must be one of quick products."""
    monkeypatch.setattr(tensors, "onednn_has_bfloat16", lambda: bfloat16)
    weight = Int4CpuWeight.quantize(torch.randn(64, 64).to(dtype), 32)
    called = []
    monkeypatch.setattr(tensors, "dequantized", lambda *args: called.append(args[-1]) or dequantized(*args))
    functional.linear(torch.randn(few, 64).to(dtype), weight)
    assert not called
    inputs = torch.randn(few + 1, 64).to(dtype).requires_grad_()
    functional.linear(inputs, weight).sum().backward()
    assert called == [expected, expected]


@pytest.mark.parametrize("experts", [False, True])
def test_pickles_hold_plain_pairs(experts, tmp_path):
    """So that a processor with other kernels reads the same weights."""
    weight = Int4CpuWeight.quantize(torch.randn(48, 64), 32)
    weight = Int4Experts.stack([weight, weight]) if experts else weight
    torch.save({"a": torch.nn.Parameter(weight, requires_grad=False)}, tmp_path / "a.pt")
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)["a"]
    assert isinstance(loaded, torch.nn.Parameter)
    assert type(loaded.data) is type(weight)
    assert torch.equal(loaded.qdata, weight.qdata)
    function, arguments = pickle.loads(pickle.dumps(weight.__reduce_ex__(4)))
    assert torch.equal(arguments[0], weight.to_plain())
    assert torch.equal(function(*arguments).qdata, weight.qdata)


def test_experts_packed_for_cuda():
    """Of torchao's class, one after the other. Only its shapes can be looked at without such a device."""
    parts = torch.zeros(8, 2, 32, 4, dtype=torch.int32), torch.zeros(2, 64, 2, dtype=torch.bfloat16)
    weight = Int4TilePackedTo4dTensor(*parts, [1, 128], torch.Size([64, 256]))
    experts = Int4Experts.stack([weight, weight])
    assert experts.shape == (2, 64, 256)
    assert experts.qdata.shape == (2, 8, 2, 32, 4)
    assert type(experts[1]) is Int4TilePackedTo4dTensor

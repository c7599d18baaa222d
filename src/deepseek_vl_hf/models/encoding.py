"""Many images through a tower: in chunks, and each different image once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch


def in_chunks(encode: Callable[[torch.Tensor], Any], pixel_values: torch.Tensor, size: int) -> Any:
    """Encodes images `size` at a time, so that memory does not grow with their number.

    Args:
        encode: [images, channels, height, width] -> tensors that begin with the images, nested in tuples or mappings
            such as a ModelOutput.
        pixel_values: [images, channels, height, width].
        size: images per call.

    Returns:
        What one call for all images would give.
    """
    if len(pixel_values) <= size:
        return encode(pixel_values)
    return _join([encode(chunk) for chunk in pixel_values.split(size)])


def _join(parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(list(parts))
    if isinstance(first, dict):
        return type(first)(**{name: _join([part[name] for part in parts]) for name in first})
    return tuple(_join(values) for values in zip(*parts, strict=True)) if isinstance(first, tuple) else first


def encode_distinct(
    encode: Callable[[torch.Tensor], Any], pixel_values: torch.Tensor, pairs: Sequence[tuple[int, int]]
) -> Any:
    """Encodes images of which some may be copies of others, and gives each copy what its twin got.

    Args:
        encode: as for `in_chunks`.
        pixel_values: [images, channels, height, width].
        pairs: numbers of images and of those that may be their copies; a pair that is not equal stays apart.

    Returns:
        What `encode` would give for all images.
    """
    if not pairs or pixel_values.is_meta:
        return encode(pixel_values)
    numbers, copies = (list(each) for each in zip(*pairs, strict=True))
    equal = (pixel_values[numbers] == pixel_values[copies]).flatten(1).all(1).tolist()  # one wait for a GPU
    twins = {copy: number for number, copy, same in zip(numbers, copies, equal, strict=True) if same}
    if not twins:
        return encode(pixel_values)
    distinct = [number for number in range(len(pixel_values)) if number not in twins]
    order = {number: place for place, number in enumerate(distinct)}
    places = torch.tensor([order[twins.get(number, number)] for number in range(len(pixel_values))])
    return _select(encode(pixel_values[distinct]), places)


def _select(output: Any, places: torch.Tensor) -> Any:
    if isinstance(output, torch.Tensor):
        return output[places.to(output.device)]
    if isinstance(output, dict):
        return type(output)(**{name: _select(value, places) for name, value in output.items()})
    return tuple(_select(value, places) for value in output) if isinstance(output, tuple) else output

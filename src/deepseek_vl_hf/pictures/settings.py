"""What settings of image processors may be. transformers takes any value, and a wrong one would give wrong pixels."""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from ..kinds import is_number, is_switch, is_whole

CHANNELS = 3
SWITCHES = ("do_resize", "do_pad", "do_rescale", "do_normalize")
LARGEST_SIDE = 2**14  # pixels; no tower reads nearly as many
# What TRL asks of an image processor when it takes a picture's tiles for pictures.
ASKED_BY_TRL = "crop_to_patches"


def check_image_settings(settings: Mapping[str, Any], place: str = "the image processor") -> None:
    """Looks at the settings that are there; those of other names are left alone, as is what is None.

    Args:
        settings: values by name, as an image processor or its file has them.
        place: where they stand, for the error.

    Raises:
        ValueError: a value is of another kind than its name needs, or out of bounds.
    """
    for name, value in settings.items():
        fits, expected = _needs(name)
        if value is None or fits is None or fits(value):
            continue
        raise ValueError(f"{place} has {name} {value!r}; expected {expected}.")


def check_arguments(arguments: Iterable[str], known: Container[str]) -> None:
    """Raises TypeError if a call has an argument that the image processor does not read.

    Args:
        arguments: their names.
        known: those that the image processor reads.
    """
    unknown = [name for name in arguments if name not in known]
    if ASKED_BY_TRL in unknown:
        raise TypeError(
            f"Found {ASKED_BY_TRL}=..., which the image processor does not read. If TRL's GRPOTrainer asked for it, "
            "give that processing_class=deepseek_vl_hf.grpo_processor(processor, model)."
        )
    if unknown:
        raise TypeError(
            f"Found {', '.join(f'{name}=...' for name in unknown)}, which the image processor does not read. Leave it "
            "out, or look for a spelling mistake."
        )


def _needs(name: str) -> tuple[Any, str]:
    """What a setting of that name has to be, as a function and in words."""
    for ending, fits, expected in (
        *((switch, is_switch, "true or false") for switch in SWITCHES),
        ("rescale_factor", _is_positive, "a positive number"),
        ("min_size", _is_side, f"a whole number from 1 to {LARGEST_SIDE}, in pixels"),
        ("image_mean", _is_per_channel, f"a number, or {CHANNELS} of them"),
        ("image_std", _is_deviation, f"a positive number, or {CHANNELS} of them"),
        ("background_color", _is_color, f"{CHANNELS} whole numbers from 0 to 255"),
    ):
        if name.endswith(ending):
            return fits, expected
    return None, ""


def _is_positive(value: Any) -> bool:
    return is_number(value) and value > 0


def _is_side(value: Any) -> bool:
    return is_whole(value, 1, LARGEST_SIDE)


def _is_per_channel(value: Any) -> bool:
    values = _listed(value)
    return len(values) in (1, CHANNELS) and all(map(is_number, values))


def _is_deviation(value: Any) -> bool:
    return _is_per_channel(value) and all(number > 0 for number in _listed(value))


def _is_color(value: Any) -> bool:
    values = _listed(value)
    return len(values) == CHANNELS and all(is_whole(number, 0, 255) for number in values)


def _listed(value: Any) -> Sequence[Any]:
    """The values of a list, an array or a tensor; one alone as a list of one."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return value if isinstance(value, (list, tuple)) else [value]

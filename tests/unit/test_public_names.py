"""The names that the package offers, some of which are imported when they are asked for."""

import pytest

import deepseek_vl_hf


def test_every_public_name_is_shown_and_there():
    assert dir(deepseek_vl_hf) == sorted(deepseek_vl_hf.__all__)
    for name in set(deepseek_vl_hf.__all__) - {"__version__"}:
        assert getattr(deepseek_vl_hf, name).__name__ == name


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'deepseek_vl_hf' has no attribute 'Chatt'"):
        deepseek_vl_hf.Chatt  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Chatt'"):
        from deepseek_vl_hf import Chatt  # noqa: F401, PLC0415

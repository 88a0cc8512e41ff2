from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from strokecore.bench.peak import product
from strokecore.errors import EngineError


def test_the_products_are_products() -> None:
    fp32 = product(False, "fp32", threads=1, size=32)
    assert fp32.flops == 2 * 32**3
    assert "32 x 32" in fp32.how
    found: Any = fp32.run()
    assert found.dtype == np.float32
    assert found.shape == (32, 32)
    assert np.array_equal(found, fp32.run())
    bf16 = product(False, "bf16", threads=1, size=16)
    answer: Any = bf16.run()
    assert answer.dtype == torch.bfloat16


@pytest.mark.parametrize("precision", ["tf32", "int8", "fp16"])
def test_no_product_stands_for_another_precision(precision: str) -> None:
    with pytest.raises(EngineError, match=precision):
        product(False, precision, threads=1, size=16)


def test_without_torch_fp32_is_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert product(False, "fp32", threads=1, size=16).flops
    with pytest.raises(EngineError, match="pip install torch"):
        product(False, "bf16", threads=1, size=16)


def test_a_gpu_that_torch_does_not_see_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="sees none"):
        product(True, "bf16", threads=1, size=16)


def test_torchs_settings_are_put_back() -> None:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    product(False, "bf16", threads=1, size=16).run()
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32", "fp32"])
def test_products_of_a_gpu(precision: str) -> None:
    found: Any = product(True, precision, threads=1, size=256).run()
    assert found.is_cuda

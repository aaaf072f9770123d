"""Names that become classes, and what is said where they do not or where their kernels cannot run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from lipbench import errors, isolate, registry
from lipbench.cases import TRITON


def test_a_module_that_fails_to_import_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("raise ZeroDivisionError('while importing')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(errors.LipbenchError, match="cannot load the layer") as caught:
        registry.load_class("broken_module:Layer")
    assert "ZeroDivisionError: while importing" in str(caught.value)
    with pytest.raises(errors.LipbenchError, match="ZeroDivisionError"):
        registry.title("broken_module:Layer")


def test_titles() -> None:
    assert registry.title("aol") == "AOL"
    assert registry.title("foreign_layers:Grouped") == "Grouped"
    with pytest.raises(errors.LipbenchError, match="unknown method: got 'nobody'"):
        registry.title("nobody")


def test_kernels_need_a_gpu_or_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    launching = pytest.importorskip("lipbench_kernels.launching", reason="kernels need triton")
    registry.check_device("paper", "cpu")
    registry.check_device(TRITON, "cuda")
    monkeypatch.setattr(launching, "interpreted", lambda: False)
    with pytest.raises(errors.LipbenchError, match="needs a CUDA device: got device cpu; use --implementation paper"):
        registry.check_device(TRITON, "cpu")
    monkeypatch.setattr(launching, "interpreted", lambda: True)
    registry.check_device(TRITON, "cpu")


def test_the_survey_refuses_kernels_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="kernels need triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(errors.LipbenchError, match="implementation triton needs a CUDA device"):
        isolate.survey(["aol"], ["paper", TRITON], "cpu")


def test_without_triton_its_implementation_is_refused_and_paper_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.UnsupportedError, match="kernels need triton"):
        registry.implementation("aol", TRITON)
    assert registry.implementation("aol", "paper").__name__ == "AOLConv2d"

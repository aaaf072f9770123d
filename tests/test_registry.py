"""Names that become classes, and the errors for names without a class or kernels that cannot run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from lipbench import cases, errors, external, registry
from lipbench.cases import TRITON, LayerSpec
from lipbench.run.executor import Wanted
from lipbench.run.local import Local


def test_a_module_that_fails_to_import_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("raise ZeroDivisionError('while importing')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(errors.LipbenchError, match="cannot load the external layer") as caught:
        external.load("broken_module:Layer")
    assert "ZeroDivisionError: while importing" in str(caught.value)
    with pytest.raises(errors.LipbenchError, match="ZeroDivisionError"):
        registry.check_name("broken_module:Layer")


def entry_point(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Install a package that has only an entry point for a method."""
    information = folder / "another_package-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: another_package\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[lipbench.methods]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(str(folder))


def test_a_method_of_another_package_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_method.py").write_text(
        "from dataclasses import replace\nfrom lipbench.layers import aol\nMETHOD = replace(aol.METHOD, name='theirs')\n"
    )
    entry_point(tmp_path, monkeypatch, "theirs", "their_method:METHOD")
    assert registry.find("theirs").name == "theirs"
    assert list(registry.methods()) == [*registry.METHODS, "theirs"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("other", "lipbench.layers.aol:METHOD", "'other' \\(its Method is named 'aol'\\)"),
        ("other", "lipbench.layers.aol:AOLConv2d", "of type ABCMeta"),
        ("other", "lipbench.layers.aol:NOTHING", "AttributeError"),
        ("other", "no_such_package:METHOD", "ModuleNotFoundError"),
        ("aol", "lipbench.layers.aol:METHOD", "two methods have the same name: got 'aol'"),
    ],
)
def test_an_entry_point_that_is_no_method_of_its_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    entry_point(tmp_path, monkeypatch, name, value)
    with pytest.raises(errors.LipbenchError, match=said):
        registry.methods()


def test_a_layer_in_the_current_folder_is_found_last_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "layer_in_this_folder.py").write_text("from torch import nn\nclass Own(nn.Identity): pass\n")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    for _ in range(2):
        assert external.load("layer_in_this_folder:Own").__name__ == "Own"
        assert sys.path == [*before, str(tmp_path)]


def test_a_layer_is_found_though_the_current_folder_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    assert external.load("external_layers:Grouped").__name__ == "Grouped"


def test_titles() -> None:
    assert registry.title("aol") == "AOL"
    assert registry.title("external_layers:Grouped") == "Grouped"
    with pytest.raises(errors.LipbenchError, match="unknown method: got 'nobody'"):
        registry.title("nobody")


def test_kernels_need_a_gpu_or_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    launching = pytest.importorskip("lipbench_kernels.launching", reason="kernels need triton")
    paper, triton = LayerSpec("aol", 4, 8), LayerSpec("aol", 4, 8, implementation=TRITON)
    registry.check_device(paper, "cpu")
    registry.check_device(triton, "cuda")
    monkeypatch.setattr(launching, "interpreted", lambda: False)
    with pytest.raises(errors.LipbenchError, match="needs a CUDA device: got device cpu; use --implementation paper"):
        registry.check_device(triton, "cpu")
    monkeypatch.setattr(launching, "interpreted", lambda: True)
    registry.check_device(triton, "cpu")


def test_what_needs_triton_is_known_by_its_name_where_the_registry_cannot_be_asked() -> None:
    found = [(one.needs, name) for method in registry.METHODS.values() for name, one in method.implementations.items()]
    assert {needs for needs, _ in found} == {"", "triton"}
    assert all((needs == "triton") == cases.needs_triton(name) for needs, name in found)
    assert registry.needs_triton(LayerSpec("aol", 4, 8, implementation=TRITON))
    assert not registry.needs_triton(LayerSpec("aol", 4, 8))
    assert registry.needs_triton(LayerSpec("no_longer_installed", 4, 8, implementation=TRITON))


def test_the_survey_refuses_kernels_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="kernels need triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    needs = pytest.raises(errors.LipbenchError, match="implementation triton needs a CUDA device")
    with Local() as local, needs:
        local.survey(Wanted(["aol"], ["paper", TRITON], "cpu"))


def test_without_triton_its_implementation_is_refused_and_paper_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.UnsupportedError, match="kernels need triton"):
        registry.implementation("aol", TRITON)
    assert registry.implementation("aol", "paper").layer.__name__ == "AOLConv2d"

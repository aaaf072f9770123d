"""The doctor: what spoils a measurement, and the cure that it names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from lipbench import doctor
from lipbench.doctor import Finding, Load
from lipbench.meters import gpu, machine

FINE = gpu.State("570.1", 1900, 1980, 300.0, 700.0, 700.0, 40, gpu.Use(0, 0.96, ()))


def wrong(found: Iterable[Finding]) -> dict[str, str]:
    """Topic → cure of everything that spoils a measurement."""
    return {one.topic: one.cure for one in found if one.problem}


def test_other_processes_are_named() -> None:
    assert not wrong(doctor.of_load(Load(0.01, 0.0)))
    found = list(doctor.of_load(Load(0.4, 0.05, ("stress (7, 80% of a core)",))))
    assert "stress (7" in found[0].problem
    assert set(wrong(found)) == {"load", "hypervisor"}


@pytest.mark.parametrize(("governor", "spoils"), [("performance", False), ("powersave", True)])
def test_the_governor_is_read(tmp_path: Path, governor: str, spoils: bool) -> None:
    file = tmp_path / "cpu0" / "cpufreq" / "scaling_governor"
    file.parent.mkdir(parents=True)
    file.write_text(f"{governor}\n")
    assert ("CPU governor" in wrong(doctor.of_cpu(tmp_path))) == spoils
    assert Finding("CPU governor", governor) in doctor.of_cpu(tmp_path) or spoils


def test_settings_that_change_times_are_found() -> None:
    assert wrong(doctor.of_settings({"TRITON_INTERPRET": "1", "CUDA_LAUNCH_BLOCKING": "0"})) == {
        "TRITON_INTERPRET": "unset TRITON_INTERPRET"
    }


def test_memory_that_is_nearly_full_is_found() -> None:
    assert wrong(doctor.of_memory(1, 100))
    assert not wrong(doctor.of_memory(50, 100))


def test_a_gpu_is_examined() -> None:
    assert not wrong(doctor.of_gpu(FINE))
    assert not wrong(doctor.of_gpu(replace(FINE, use=gpu.Use(0, 0.2, ("idle",)))))
    hot = replace(FINE, power_limit_w=400.0, use=gpu.Use(2, 0.5, ("temperature",)))
    assert wrong(doctor.of_gpu(hot)) == {
        "GPU clock": "check its cooling and power supply",
        "GPU power": "sudo nvidia-smi -pl 700, or report the limit with the times",
        "GPU processes": "stop them, or choose another GPU with CUDA_VISIBLE_DEVICES",
    }
    locked = replace(FINE, use=gpu.Use(0, 0.5, ("application clocks",)))
    assert list(wrong(doctor.of_gpu(locked))) == ["GPU clock"]
    silent = gpu.State(None, None, None, None, None, None, None, gpu.Use())
    assert not wrong(doctor.of_gpu(silent))


def test_the_answer_fails_exactly_where_something_spoils(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "watch", lambda: Load(0.0, 0.0))
    monkeypatch.setattr(doctor, "of_cpu", list)
    monkeypatch.setattr(doctor, "of_memory", lambda *_: [])
    monkeypatch.setattr(doctor, "of_gpu", lambda state: [])
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    found = doctor.answer()
    assert (found.failed, found.remarks) == (False, ("nothing was found that spoils a measurement",))
    assert {"blas", "lapack", "versions"} <= set(found.frame["topic"])
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert doctor.answer().failed


def test_rounds_record_the_libraries_of_linear_algebra() -> None:
    assert machine.backends().items() <= machine.describe("cpu", 1).flags.items()
    assert {"blas", "lapack", "onednn"} <= set(machine.backends())

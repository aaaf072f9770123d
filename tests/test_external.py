"""External layers and networks: classes, functions and adapters; misfits; two files of the same name; a run with them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from lipbench import certify, errors, external, registry
from lipbench.cases import Case, ExternalNetworkSpec, LayerSpec, from_dict, to_dict
from lipbench.cli import main as cli
from lipbench.cli.printing import FAILED
from lipbench.prediction import memory
from lipbench.run.plan import Request, plan

PACKAGE = """
import functools
from torch import nn


class Own(nn.Conv2d):
    def __init__(self, in_channels, out_channels, kernel_size, image_size):
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.image_size = image_size


def own(in_channels, out_channels, kernel_size):
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)


Same = functools.partial(nn.Conv2d, padding="same")


class Outer:
    Inner = Own


def nothing(cin, cout, kernel_size):
    return cin


made = nn.Identity()


class NeedsStride(nn.Conv2d):
    def __init__(self, in_channels, out_channels, kernel_size, stride, padding):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding)


class SizeFirst(nn.Conv2d):
    def __init__(self, input_size, cin, cout, kernel_size=3, stride=1):
        assert len(input_size) == 4
        super().__init__(cin, cout, kernel_size, stride, padding=kernel_size // 2)


class SecondIsFactor(nn.Conv2d):
    def __init__(self, cin, inner_dim_factor, kernel_size=3):
        super().__init__(cin, cin * inner_dim_factor, kernel_size, padding=kernel_size // 2)


class Net(nn.Sequential):
    def __init__(self, in_channels, num_classes, depth):
        assert depth == 1
        super().__init__(nn.Conv2d(in_channels, num_classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""
ADAPTER = """
from torch import nn
from beside import SCALE

class Scaled(nn.Conv2d):
    def forward(self, x):
        return SCALE * super().forward(x)

def layer(channels, image_size, kernel_size):
    assert image_size == 8
    return Scaled(channels, channels, kernel_size, padding=kernel_size // 2, bias=False)

def later(channels, image_size, kernel_size):
    import only_when_called
    return nn.Identity()

def nothing(c, s, k):
    return None
"""
NETWORK = """
from torch import nn

def net(image_size, classes):
    linear = nn.Linear(4 * image_size**2, classes)
    linear.weight.data /= 100
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), linear)
"""
TINY = ("--channels", "4", "--image-size", "8", "--kernel-size", "3", "--batch-size", "2", "--threads", "1", "--rounds", "1",
        "--phase-seconds", "0.01")  # fmt: skip


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, by name."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    name = f"package_of_{tmp_path.name}".replace("-", "_")
    Path(f"{name}.py").write_text(PACKAGE)
    return name


def adapter(folder: Path, scale: int) -> str:
    """An adapter file with a module in its folder, and its external name."""
    folder.mkdir()
    (folder / "adapter.py").write_text(ADAPTER)
    (folder / "beside.py").write_text(f"SCALE = {scale} / 10\n")
    (folder / "only_when_called.py").write_text(f"CALLED = {scale}\n")
    return f"{folder / 'adapter.py'}:layer"


def built(name: str) -> nn.Module:
    return registry.build(LayerSpec(name, 4, 8, 3))


# ------------------------------------------------------------------------------------------------------------ what is taken


@pytest.mark.parametrize("name", ["Own", "own", "Same", "Outer.Inner"])
def test_classes_functions_and_partials_of_a_package(package: str, name: str) -> None:
    layer = built(f"{package}:{name}")
    assert layer(torch.zeros(1, 4, 8, 8)).shape == (1, 4, 8, 8)
    assert getattr(layer, "image_size", 8) == 8
    assert registry.title(f"{package}:{name}") == name


def test_an_adapter_gets_channels_image_size_and_kernel_size(tmp_path: Path) -> None:
    layer = built(adapter(tmp_path / "folder", 2))
    assert isinstance(layer, nn.Conv2d)
    assert (layer.in_channels, layer.kernel_size) == (4, (3, 3))


def test_a_file_is_named_by_its_path_and_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [external.absolute(f"{folder}/adapter.py:layer") for folder in ("one", "other")]
    assert names[0] == f"{tmp_path}/one/adapter.py:layer"
    assert external.title(names[0]) == "adapter.py:layer"
    assert external.titles(names) == {name: name for name in names}
    assert external.titles(names[:1]) == {names[0]: "adapter.py:layer"}
    ids = {Case(LayerSpec(name, 4, 8), 2).id for name in names}
    assert len(ids) == 2
    assert all(one.startswith("adapter.py-layer-") and len(one) < 80 for one in ids)
    assert external.absolute("package.module:Class") == external.slug("package.module:Class") == "package.module:Class"


def test_files_of_one_name_and_what_lies_beside_them_are_not_mixed_up(tmp_path: Path) -> None:
    names = [adapter(tmp_path / f"folder_{scale}", scale) for scale in (2, 3)]
    path = list(sys.path)
    image = torch.ones(1, 4, 8, 8)
    for name, scale in zip((*names, *names), (2, 3, 2, 3)):
        layer = built(name)
        plain = nn.functional.conv2d(image, layer.get_parameter("weight"), padding=1)
        assert torch.allclose(layer(image), scale / 10 * plain, rtol=1e-4)
        built(name.replace(":layer", ":later"))
        assert sys.modules["only_when_called"].__dict__["CALLED"] == scale
    assert sys.path[: len(path)] == path
    assert not any("folder_" in entry for entry in sys.path)


# -------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "must return a torch.nn.Module: got '.*:nothing', which returns an object of type int"),
        ("functools", "it is a module, which cannot be called"),
        ("Absent", "has no attribute 'Absent'"),
    ],
)
def test_what_makes_no_layer_is_refused(package: str, name: str, said: str) -> None:
    with pytest.raises(errors.LipbenchError, match=said):
        built(f"{package}:{name}")


def test_a_module_already_made_is_refused(package: str) -> None:
    with pytest.raises(errors.LipbenchError, match=r"an nn\.Module object, not a class or function that returns one"):
        registry.check_name(f"{package}:made")


def test_an_adapter_that_returns_nothing_and_a_file_that_is_not_there_are_refused(tmp_path: Path) -> None:
    name = adapter(tmp_path / "folder", 1)
    with pytest.raises(errors.LipbenchError, match="which returns an object of type NoneType; have the class"):
        built(name.replace(":layer", ":nothing"))
    with pytest.raises(errors.LipbenchError, match="No such file"):
        registry.check_name(f"{tmp_path}/absent.py:layer")


def pasted(message: str, path: Path) -> str:
    """A file with the lines that an error shows."""
    path.write_text(message.partition("\n\n")[2])
    assert len(path.read_text().splitlines()) == 5
    return str(path)


@pytest.mark.parametrize("name", ["NeedsStride", "SizeFirst", "SecondIsFactor"])
def test_the_adapter_that_an_error_shows_works(package: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.LipbenchError, match="write an adapter as below, say") as caught:
        registry.check_name(f"{package}:{name}")
    layer = built(f"{pasted(str(caught.value), tmp_path / 'shown.py')}:layer")
    assert type(layer).__name__ == name
    assert layer(torch.zeros(1, 4, 8, 8)).shape == (1, 4, 8, 8)


def test_a_class_in_a_file_does_not_get_the_image_size_for_its_output_channels(package: str, tmp_path: Path) -> None:
    assert built(f"{tmp_path / package}.py:own")(torch.zeros(1, 4, 8, 8)).shape == (1, 4, 8, 8)


def test_the_network_that_an_error_shows_works(package: str, tmp_path: Path) -> None:
    with pytest.raises(errors.LipbenchError, match="and give --network adapter") as caught:
        registry.check_network_name(f"{package}:Net")
    name = f"{pasted(str(caught.value), tmp_path / 'shown.py')}:network"
    assert registry.build(ExternalNetworkSpec(name, 8))(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


# ---------------------------------------------------------------------------------------------------------------- networks


@pytest.fixture
def network(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(NETWORK)
    return f"{tmp_path / 'nets.py'}:net"


def test_a_network_is_planned_once_beside_the_sizes_of_all_methods(network: str) -> None:
    cases = plan(Request(methods=("aol", "soc"), networks=("XS", network)), "cpu")
    assert [case.spec.method for case in cases] == ["aol", "soc", network]
    alone = plan(Request(networks=(network,), image_sizes=(8, 16)), "cpu")
    assert [case.spec for case in alone] == [ExternalNetworkSpec(network, 8), ExternalNetworkSpec(network, 16)]
    assert alone[0].id.startswith("nets.py-net-")
    assert from_dict(to_dict(alone[0])) == alone[0]


def test_memory_of_a_network_is_predicted(network: str) -> None:
    frame, problems = memory.table([Case(ExternalNetworkSpec(network, 8), 2)])
    assert not problems
    assert frame["parameters_bytes"].tolist() == [4 * (4 * 27 + 4 + 256 * 10 + 10)]


def certified(*layers: nn.Module, each_layer: bool = False) -> Sequence[tuple[str, float]]:
    image = torch.zeros(1, 3, 4, 4)
    found = certify.certify(nn.Sequential(*layers), image, training=False, each_layer=each_layer).evaluation
    return [(bound.kind, bound.largest) for bound in found]


def test_what_one_layer_of_an_external_network_gains_another_may_lose() -> None:
    doubled, halved = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False)
    for layer, scale in ((doubled, 2), (halved, 0.5)):
        layer.weight.data = scale * torch.eye(3)[:, :, None, None]
    assert certified(doubled, nn.ReLU(), halved, each_layer=True)[1] == ("exact", pytest.approx(2))
    upper, whole = certified(doubled, nn.ReLU(), halved)
    assert upper == ("upper bound", pytest.approx(1))
    assert whole[0] == "lower bound"
    assert 0 < whole[1] <= 1 + 1e-6


# ------------------------------------------------------------------------------------------------------------- end to end


def test_a_run_of_adapters_and_a_network(
    tmp_path: Path, network: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Relative paths; two adapters of one name; the report and the export import none of the files."""
    monkeypatch.chdir(tmp_path)
    for scale in (1, 2):
        adapter(tmp_path / f"v{scale}", scale)

    def lipbench(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        out, err = capfd.readouterr()
        assert ended.value.code in (0, FAILED), err
        return out

    lipbench(
        "profile", *TINY, "--method", "v1/adapter.py:layer,v2/adapter.py:layer", "--network", "nets.py:net", "--out", "run"
    )
    before = set(sys.modules)
    lipbench("export", "run", "-o", "run.csv")
    lipbench("report", "run", "-o", "run.html")
    assert not any("adapter" in name for name in set(sys.modules) - before)
    rows = pd.read_csv("run.csv", keep_default_na=False).query("phase == 'inference'")
    assert list(rows["title"]) == [f"{tmp_path}/v1/adapter.py:layer", f"{tmp_path}/v2/adapter.py:layer", "nets.py:net"]
    assert list(rows["network"]) == ["", "", "external"]
    assert (rows["median_s"].astype(float) > 0).all()
    certificates = rows["certificate"].astype(float).tolist()
    assert certificates[1] == pytest.approx(2 * certificates[0], rel=2e-2)
    assert certificates[2] > 0
    text = Path("run.html").read_text()
    assert "external network" in text
    assert "v2/adapter.py:layer" in text

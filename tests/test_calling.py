"""How external layers are called: by the meaning of names, with settings; what is built; what is refused, in which words."""

from __future__ import annotations

from pathlib import Path

import constructor_layers
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import lipbench
from lipbench import building, calling, errors, external, registry, settings, traces
from lipbench.cases import Case, ExternalNetworkSpec, LayerSpec, Limits, from_dict, to_dict
from lipbench.cli import main as cli
from lipbench.prediction import fakes, memory
from lipbench.prediction.counting import Counter
from lipbench.run import measure, verifying
from lipbench.run.plan import Request, plan
from lipbench.workload import Workload

C, S, K = 4, 6, 3
QUICKLY = Limits(phase_seconds=0.001)


@pytest.fixture(autouse=True)
def _beside_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh processes find external layers in the current folder."""
    monkeypatch.chdir(Path(__file__).parent)


def spec(name: str, k: int = K) -> LayerSpec:
    return LayerSpec(name if ":" in name else f"constructor_layers:{name}", C, S, k)


def workload(name: str) -> Workload:
    return Workload.build(Case(spec(name), 2), registry.build(spec(name)))


# ---------------------------------------------------------------------------------------------------------- the arguments


@pytest.mark.parametrize("name", ["ByNameAlone", "ImageFirst", "Outer.Inner", "Outer.make", "picks", "PairOfSizes", "Lazy"])
def test_sizes_are_bound_by_name(name: str) -> None:
    layer = registry.build(spec(name, 5))
    found = next(part for part in layer.modules() if isinstance(part, nn.Conv2d))
    assert (found.in_channels, found.out_channels, found.kernel_size) == (C, C, (5, 5))


def test_a_number_that_is_no_size_keeps_its_default() -> None:
    layer = registry.build(spec("ThirdIsStride", 5)).get_submodule("layer")
    assert isinstance(layer, nn.Conv2d)
    assert (layer.stride, layer.kernel_size) == ((1, 1), (3, 3))
    registry.build(spec("OtherCounts"))
    assert registry.build(spec("torch.nn:Softmax2d"))
    assert isinstance(registry.build(spec("torch.nn:PReLU")), nn.PReLU)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SecondIsFactor", "what it needs as inner_dim_factor is not known"),
        ("torch.nn:MultiheadAttention", "what it needs as embed_dim, num_heads is not known"),
        ("torch.nn:LayerNorm", "what it needs as normalized_shape is not known"),
        ("torch.nn:GRUCell", "what it needs as input_size, hidden_size is not known"),
        ("builtins:dict", "no signature found"),
    ],
)
def test_what_has_no_clear_meaning_is_refused_with_an_adapter(name: str, said: str) -> None:
    with pytest.raises(errors.LipbenchError, match=said) as caught:
        calling.layer(spec(name).method)
    assert "\n\n\ndef layer(channels, image_size, kernel_size):\n    return " in str(caught.value)


def test_what_only_passes_arguments_on_is_refused_when_it_needs_some() -> None:
    with pytest.raises(errors.LipbenchError, match="do not say what it takes: TypeError") as caught:
        registry.build(spec("PassesOn"))
    assert "PassesOn(channels, channels, kernel_size)" in str(caught.value)
    assert registry.build(spec("TakesNothing"))(torch.ones(1, 4, 2, 2)).shape == (1, 4, 2, 2)


@pytest.mark.parametrize(
    "line", ["lambda c, s, k: pair(c, s, k)", "lambda channels, _, kernel_size: pair(channels, 6, kernel_size)",
             "lambda channels, size, k: pair(channels, size, k)", "lambda k, resolution, ch: pair(ch, resolution, k)"]
)  # fmt: skip
def test_functions_in_a_file_have_short_names(tmp_path: Path, line: str) -> None:
    path = tmp_path / "adapter.py"
    path.write_text(
        "from torch import nn\n\ndef pair(channels, size, kernel):\n    assert (channels, size, kernel) == (4, 6, 3)\n"
        f"    return nn.Identity()\n\nlayer = {line}\n"
    )
    assert isinstance(registry.build(spec(f"{path}:layer")), nn.Identity)


# ----------------------------------------------------------------------------------------------------------- the settings


def test_settings_have_one_text_and_are_part_of_the_name() -> None:
    given = settings.joined("stride=2", "bias=False,  mode=circular, size=[1, 2.5]")
    assert given == "bias=False, mode='circular', size=(1, 2.5), stride=2"
    assert settings.read(given) == {"bias": False, "mode": "circular", "size": (1, 2.5), "stride": 2}
    name = external.absolute("package.module:Layer(stride=1)", "mode='a:b(c)'")
    assert name == "package.module:Layer(mode='a:b(c)', stride=1)" == external.absolute(name)
    assert external.parse(name) == external.External("package.module", "Layer", "mode='a:b(c)', stride=1")
    assert external.title(name) == "Layer(mode='a:b(c)', stride=1)"
    ids = {Case(LayerSpec(f"m:L({text})", 4, 8), 2).id for text in ("a=1", "a=-1", "a=True", "a='1'")}
    assert len(ids) == 4
    assert all(len(one) < 80 for one in ids)


@pytest.mark.parametrize(
    "text", ["2", "a=1, a=2", "**a", "a=", "a=b()", "a={1}", "a=1e999", "a=1)(b=2", "(" * 400, "a=" + "9" * 600]
)
def test_what_is_no_setting_is_refused(text: str) -> None:
    with pytest.raises(errors.LipbenchError, match="--with takes NAME=VALUE"):
        settings.joined(text)


def test_settings_reach_the_layer_and_override_sizes() -> None:
    layer = registry.build(spec("torch.nn:Conv2d(bias=False, groups=4, padding=1, out_channels=8)"))
    assert isinstance(layer, nn.Conv2d)
    assert (layer.groups, layer.bias, layer.out_channels, layer.in_channels) == (4, None, 8, C)
    assert workload("torch.nn:Conv2d(in_channels=3)").x.shape == (2, 3, S, S)
    assert workload("SecondIsFactor(inner_dim_factor=2)").module.inner == 2 * C
    with pytest.raises(errors.LipbenchError, match=r"no parameter 'strides': .* choose from in_planes, planes, stride"):
        calling.layer("constructor_layers:ThirdIsStride(strides=2)")
    with pytest.raises(errors.LipbenchError, match="external layers and networks alone"):
        plan(Request(methods=("aol",), settings="stride=2"), "cpu")


def test_a_request_names_its_layers_with_settings_and_claim() -> None:
    cases = plan(Request(methods=("aol", "m:L"), channels=(8,), settings="stride=2", claim=0.97), "cpu")
    assert {(case.spec.method, case.spec.claim) for case in cases} == {("aol", 1.0), ("m:L(stride=2)", 0.97)}
    assert all(from_dict(to_dict(case)) == case for case in cases)
    assert len({case.id for case in cases}) == len(cases)
    assert "-L0.97-" in next(case.id for case in cases if case.spec.claim != 1)
    assert "-L" not in Case(ExternalNetworkSpec("m:net"), 2).id
    for claim in (0, -1.0, float("nan"), float("inf"), "1"):
        with pytest.raises(errors.LipbenchError, match="a Lipschitz constant must be"):
            LayerSpec("m:L", 4, 8, claim=claim)  # type: ignore[arg-type]


def test_the_command_line_takes_settings_and_the_claim(capfd: pytest.CaptureFixture[str]) -> None:
    name = "constructor_layers:SecondIsFactor"
    sizes = ("--channels", "4", "--image-size", "4", "--kernel-size", "1")
    with pytest.raises(SystemExit) as ended:
        cli.main(("predict", "--method", name, *sizes, "--batch-size", "2", "--with", "inner_dim_factor=2", "--format", "csv"))
    assert ended.value.code == 0
    assert f",{4 * (2 * 4 * 8 + 8 + 4)}," in capfd.readouterr().out
    with pytest.raises(SystemExit) as ended:
        cli.main(("predict", "--method", f"{name}(inner_dim_factor=2),{name}(inner_dim_factor=1)", *sizes, "--format", "csv"))
    assert ended.value.code == 0
    assert len(capfd.readouterr().out.splitlines()) == 3


# ---------------------------------------------------------------------------------------------------- inputs and numbers


def test_fully_connected_layers_get_features() -> None:
    assert workload("Matrix").x.shape == (2, C)
    assert workload(f"{constructor_layers.__file__}:pooled").x.shape == (2, 3 * C)
    assert registry.shown_sizes(spec("Matrix")) == {"channels": C, "image_size": None, "kernel_size": None}
    chosen = verifying.specs(["constructor_layers:Matrix"], verifying.Shapes(image_sizes=(4, 8), claim=50.0))
    rows = verifying.verify(chosen)
    assert rows["reason"].eq("").all()
    assert rows["image_size"].isna().all()
    assert len(rows) == len(rows.drop_duplicates(["weights", "mode", "how"]))  # nothing but channels distinguishes the specs


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("ThirdIsStride", {"unused_size"}),
        ("Matrix", {"unused_size"}),
        ("TakesNothing", {"unused_size"}),
        ("Lazy", set()),
        ("Doubles", {"input_copied"}),
        ("DoublesInTraining", {"input_copied"}),
    ],
)
def test_all_kinds_are_measured_and_predicted(name: str, kinds: set[str]) -> None:
    case = Case(spec(name), 2)
    found = measure.measure(case, QUICKLY, ("training", "step", "inference", "macs"))
    assert {part: one.reason for part, one in found.parts.items() if one.status != "ok"} == {}
    assert {one.kind for one in found.warnings} & {"unused_size", "input_copied"} == kinds
    assert found.macs is not None
    counted = Counter(case.spec.method).totals(2, S, C, K)
    assert counted is not None
    assert counted[0] == found.macs.phases["forward"]
    assert memory.memory(case).parameter_bytes == 4 * sum(one.numel() for one in registry.build(case.spec).parameters())


def test_a_layer_that_changes_its_input_sees_the_same_input_in_every_call() -> None:
    for name in ("Doubles", "DoublesInTraining"):
        made = workload(name)
        before = made.x.detach().clone()
        made.prepare_training()
        outputs = [made.forward() for _ in range(2)]
        made.backward()
        assert torch.equal(outputs[0], outputs[1])
        assert torch.equal(made.x, before)
        assert made.x.grad is not None
        made.prepare_inference()
        assert torch.equal(made.inference(), made.inference())


def test_a_constructor_that_looks_at_values_is_built_before_its_tensors_become_fake() -> None:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    module = fakes.build(spec("LooksAtValues"), mode)
    assert type(module.weight) is nn.Parameter or isinstance(module.weight, nn.Parameter)
    assert module.weight.requires_grad
    assert module.weight.fake_mode is module.fixed.fake_mode is mode
    assert Counter("constructor_layers:LooksAtValues").totals(2, S, C, 1) is not None
    assert memory.memory(Case(spec("LooksAtValues"), 2)).parameter_bytes == 4 * C * C
    with pytest.raises(errors.LipbenchError, match="at 65536 channels"):
        fakes.build(LayerSpec("constructor_layers:LooksAtValues", 65536, 8), mode)


def test_formulas_of_a_layer_with_settings() -> None:
    answer = lipbench.complexity(
        constructor_layers.ThirdIsStride, channels=(4, 8, 16), image_size=(8, 16, 32), kernel_size=(1, 3), batch_size=(2, 4),
        settings={"stride": 2},
    )  # fmt: skip
    row = answer.frame.query("half == 'input' and quantity == 'macs'").iloc[0]
    assert row["title"] == "ThirdIsStride(stride=2)"
    assert row["sum"] == "9*b*c**2*s**2/4"


def test_the_claim_is_stored_with_the_certificate() -> None:
    found = measure.measure(Case(LayerSpec("constructor_layers:picks", 2, 4, 1, claim=0.5), 2), QUICKLY, ("certificate",))
    assert found.certificate is not None
    assert found.certificate.claimed == 0.5


# ---------------------------------------------------------------------------------------------------------- the messages


@pytest.mark.parametrize(
    ("name", "said", "line"),
    [
        ("PairOut", "must return one tensor: .*an object of type tuple of 2", "return self.layer(x)[1]"),
        ("NumberOut", "must return one tensor: .*an object of type float", "return self.layer(x)"),
        ("TakesConstant", "must take one tensor alone: .*'lc'", "return self.layer(x, lc=1.0)"),
    ],
)
def test_a_forward_pass_of_another_form_is_refused_with_a_wrapper(name: str, said: str, line: str, tmp_path: Path) -> None:
    for attempt in (lambda: workload(name), lambda: Counter(spec(name).method).totals(2, S, C, K),
                    lambda: memory.memory(Case(spec(name), 2))):  # fmt: skip
        with pytest.raises(errors.LipbenchError, match=said) as caught:
            attempt()
        assert f"        {line}\n" in str(caught.value)
    if name != "NumberOut":
        (tmp_path / "shown.py").write_text(str(caught.value).partition("\n\n")[2])
        assert workload(f"{tmp_path / 'shown.py'}:layer").inference().shape == (2, C, S, S)


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
@pytest.mark.parametrize("name", ["MadeOnCuda", "AssertsCuda"])
def test_what_needs_a_gpu_says_so(name: str) -> None:
    for attempt in (lambda: workload(name), lambda: Counter(spec(name).method).totals(2, S, C, K),
                    lambda: memory.memory(Case(spec(name), 2))):  # fmt: skip
        with pytest.raises(errors.LipbenchError, match=r"needs a CUDA device: .*constructor_layers.py:\d+.*--device cuda"):
            attempt()


def test_an_error_is_located_in_the_users_code() -> None:
    with pytest.raises(ValueError, match="only for") as caught:
        registry.build(spec("raises_here"))
    lines = Path(constructor_layers.__file__).read_text().splitlines()
    raising = next(number for number, line in enumerate(lines, 1) if "only for" in line)
    assert traces.place(caught.value) == f"constructor_layers.py:{raising}"
    assert traces.line(caught.value, first=True) == f"ValueError: only for (constructor_layers.py:{raising})"
    failing = next(number for number, line in enumerate(lines, 1) if "a failure inside PyTorch" in line)
    reason = verifying.verify([spec("Stumbles")])["reason"].iloc[0]
    assert reason.endswith(f"(constructor_layers.py:{failing})")
    assert traces.place(ValueError()) == ""


def test_a_layer_without_parameters_is_certified_as_it_is() -> None:
    rows = verifying.verify(
        verifying.specs(["constructor_layers:TakesNothing"], verifying.Shapes(channels=(2,), image_sizes=(2,)))
    )
    assert set(rows["weights"]) == {"initial"}
    assert rows["reason"].eq("").all()
    assert rows["largest"].max() == pytest.approx(1)


def test_only_a_shape_is_an_input_shape() -> None:
    module = nn.Identity()
    for own, expected in (
        ((5,), (5,)),
        (torch.Size((2, 3, 3)), (2, 3, 3)),
        ((1, 2, 3, 3), (C, S, S)),
        ("abc", (C, S, S)),
        (3, (C, S, S)),
    ):
        vars(module)["input_shape"] = own
        assert building.input_shape(spec("picks"), module) == expected


# ------------------------------------------------------------------------------------------------------------ the bounds


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "--channels", "100000000000000000000"), ("predict", "--channels", "1000000000"),
        ("predict", "--image-size", "1000000"), ("predict", "--batch-size", "99999999"), ("predict", "--memory", "9" * 5000),
        ("complexity", "aol", "--channels", "8,1000000000"), ("complexity", "aol", "--kernel-size", "1001"),
        ("verify", "aol", "--channels", "1000000000"), ("profile", "--channels", "1000000000"),
        ("profile", "--threads", "1000000"),
        ("profile", "--rounds", "1" + "0" * 30), ("profile", "--timeout", "1e300"), ("profile", "--memory-limit", "9" * 30),
        ("verify", "torch.nn:ReLU", "--lipschitz", "1e9"),
    ],
)  # fmt: skip
def test_numbers_that_are_too_large_are_refused(arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    error = capfd.readouterr().err
    assert "at most" in error
    assert len(error.splitlines()) == 1


def test_specs_have_the_bounds_of_the_options() -> None:
    for sizes in ({"channels": 10**9}, {"image_size": 10**6}, {"kernel_size": 1001}):
        with pytest.raises(errors.LipbenchError, match="at most"):
            LayerSpec("aol", **{"channels": 4, "image_size": 8, **sizes})
    with pytest.raises(errors.LipbenchError, match="batch size must be at most"):
        lipbench.predict("aol", channels=4, image_size=8, batch_size=10**9)


def test_the_largest_sizes_are_counted_or_refused() -> None:
    frame, problems = memory.table([Case(LayerSpec(name, 2**16, 2**12, 255), 2**16) for name in ("standard", "aol", "soc")])
    assert len(frame) + len(problems) == 3


def test_json_of_other_benchmarks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    foreign = '{"benchmarks": [{"name": "x", "extra_info": {}}]}'
    for text, said in (("[]", "not a"), ('{"benchmarks": {}}', "no list of"), (foreign, "none of its 1 benchmarks has a case")):
        path.write_text(text)
        with pytest.raises(errors.LipbenchError, match=said):
            lipbench.load(path)

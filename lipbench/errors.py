"""All error messages. Each says what is wrong, what was got, and what to do.

These are errors that the user can fix. The command line prints one as one line and exits with code 2; a traceback is a bug.
"""

import difflib
import re
import shlex
from collections.abc import Sequence

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class LipbenchError(Exception):
    """Wrong use, bad input or a missing part; its text is one line: what is wrong, what was got, what to do."""

    traceback = ""
    """of the exception that it reports, where another process raised that"""


class NotOursError(LipbenchError):
    """The path of one of lipbench's files is taken by a file that lipbench must not overwrite."""


class UnsupportedError(LipbenchError):
    """A layer cannot be built with these sizes, or an implementation is not available here."""


class TooLargeError(LipbenchError):
    """The tensors of a case have more bytes than can be counted."""


def visible(text: str) -> str:
    """A text with its control characters escaped, so that it does nothing to a terminal and can be encoded.

    Escaped are control characters other than line break and tab, line separators, characters that change the direction of
    writing, and lone surrogates, which stand for bytes of a file name that are no UTF-8.
    """
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def _message(what: str, got: object, do: str) -> str:
    return visible(" ".join(f"{what}: got {got}; {do}.".split()))


def _listing(names: object) -> str:
    return ", ".join(sorted(str(name) for name in names))  # type: ignore[attr-defined]  # any iterable of names


def unknown_method(name: str, known: object) -> LipbenchError:
    return LipbenchError(
        _message("unknown method", repr(name), f"choose from {_listing(known)} or give package.module:name or file.py:name")
    )


def duplicate_method(name: str) -> LipbenchError:
    return LipbenchError(_message("two methods have the same name", repr(name), "rename the entry point of the other package"))


def bad_entry_point(name: str, why: str) -> LipbenchError:
    do = "fix or uninstall the other package; an entry point in lipbench.methods must be a Method and have the Method's name"
    return LipbenchError(_message("cannot use the entry point", f"{name!r} ({why})", do))


def unknown_choice(option: str, got: object, known: object) -> LipbenchError:
    return LipbenchError(_message(f"unknown {option}", repr(got), f"choose from {_listing(known)}"))


def unknown_verb(got: str, known: Sequence[str]) -> LipbenchError:
    if got.startswith("-"):
        do = "put a command before its options, as in lipbench profile --method aol, or see lipbench --help"
        return LipbenchError(_message("no such option of lipbench itself", repr(got), do))
    near = difflib.get_close_matches(got, known, 1)
    do = f"use lipbench {near[0]}" if near else f"choose from {_listing(known)}"
    return LipbenchError(_message("unknown command", repr(got), f"{do}, or see lipbench --help"))


def extra_arguments(got: str, verb: str) -> LipbenchError:
    do = (
        "give methods by --method, write lists with commas and no spaces (16,32) and sizes as one word (24GB), or see lipbench "
        f"{verb} --help"
    )
    return LipbenchError(_message("arguments that nothing asks for", repr(got), do))


def too_large(option: str, got: object, largest: object) -> LipbenchError:
    return LipbenchError(_message(f"{option} must be at most {largest}", repr(got), "give a smaller number"))


def no_constant(got: object, largest: float) -> LipbenchError:
    what = f"a Lipschitz constant must be greater than 0 and at most {largest:g}"
    return LipbenchError(_message(what, repr(got), "give a positive number, such as 0.97"))


def too_large_to_count(case: str, why: str) -> TooLargeError:
    return TooLargeError(
        _message("the tensors of this case are too large to be counted", f"{case} ({why})", "use smaller sizes")
    )


def not_positive(option: str, got: object) -> LipbenchError:
    return LipbenchError(_message(f"{option} must be a whole number of at least 1", repr(got), "give a positive whole number"))


def batch_is_sought() -> LipbenchError:
    return LipbenchError(_message("the batch size is what fits looks for", "batch_size", "leave it out, or use predict"))


def not_one_case(count: int) -> LipbenchError:
    do = "give one method, and one value of each size and condition, as in --network S --method aol"
    return LipbenchError(_message("a breakdown is of one layer or network", f"{count} cases", do))


def no_parts() -> LipbenchError:
    do = "leave out compile and exported"
    return LipbenchError(_message("the layers of a network can be told apart where it runs uncompiled", "another form", do))


def no_size(option: str, got: str) -> LipbenchError:
    what = f"{option} must be a size of at least one byte"
    return LipbenchError(_message(what, repr(got[:50]), "give one such as 24GB (decimal), 24GiB (binary) or 8e9"))


def even_kernel(got: object) -> UnsupportedError:
    return UnsupportedError(_message("kernel size must be odd", got, "use 1, 3 or 5, so that the image keeps its size"))


def unknown_kernel(method: str, got: int, known: object) -> UnsupportedError:
    return UnsupportedError(_message(f"{method} does not support this kernel size", got, f"use a kernel size of {known}"))


def padding_exceeds_image(kernel_size: int, image_size: int) -> UnsupportedError:
    what, got = "circular padding would wrap around the image more than once", f"kernel {kernel_size} and image {image_size}"
    return UnsupportedError(_message(what, got, "use a smaller kernel or a larger image"))


def kernel_exceeds_image(method: str, kernel_size: int, image_size: int) -> UnsupportedError:
    return UnsupportedError(
        _message(
            f"{method} needs an image at least as large as the kernel",
            f"kernel {kernel_size} and image {image_size}",
            "use a smaller kernel or a larger image",
        )
    )


def unequal_channels(method: str, inputs: int, outputs: int) -> UnsupportedError:
    return UnsupportedError(
        _message(f"{method} needs as many output as input channels", f"{inputs} and {outputs}", "use equal channels")
    )


def only_zero(method: str) -> UnsupportedError:
    return UnsupportedError(
        _message(f"{method} divides by the norm of a skew matrix", "one of 1 × 1, which is 0", "use at least 2 channels")
    )


def not_square(got: object) -> LipbenchError:
    return LipbenchError(_message("layers take images (batch, channels, s, s)", got, "crop or pad the image to a square"))


def no_second_derivative() -> LipbenchError:
    do = "use the implementation paper, or the evaluation mode"
    return LipbenchError(_message("this implementation has only first derivatives in training", "a second one", do))


def no_implementation(method: str, name: str, known: object) -> UnsupportedError:
    return UnsupportedError(_message(f"{method} has no such implementation", repr(name), f"choose from {_listing(known)}"))


def no_gpu_for_kernels() -> LipbenchError:
    do = "use --implementation paper, or set TRITON_INTERPRET=1 to check results, not times, at tiny sizes"
    return LipbenchError(_message("implementation triton needs a CUDA device", "device cpu", do))


def one_process() -> LipbenchError:
    do = "leave them out, or put the layer into a module that can be imported"
    return LipbenchError(
        _message(
            "a layer of this process alone has one round and no limits", "several rounds, a time-out or a memory limit", do
        )
    )


def no_cuda() -> LipbenchError:
    return LipbenchError(
        _message("no CUDA device was found by PyTorch", "device cuda", "use --device cpu, or install a CUDA build of PyTorch")
    )


def unreadable_run(path: object, why: str) -> LipbenchError:
    return LipbenchError(_message("not a readable run", f"{path} ({why})", "give the directory that lipbench profile wrote"))


def no_directory(path: object) -> LipbenchError:
    return LipbenchError(_message("not a directory", path, "give one that holds runs, such as runs"))


def no_runs(path: object) -> LipbenchError:
    do = "give a directory that runs of lipbench profile or lipbench train lie in"
    return LipbenchError(_message("no run to list", f"{path} without one", do))


def run_exists(path: object) -> LipbenchError:
    return LipbenchError(
        _message("the run directory is not empty", path, "add --resume to continue its run, or choose another --out")
    )


def newer_schema(path: object, got: object, known: int) -> NotOursError:
    return NotOursError(
        _message(f"record schema newer than this lipbench ({known})", f"{got} in {path}", "install a newer lipbench")
    )


def not_importable(name: str, why: str) -> LipbenchError:
    do = (
        "give package.module:name of a class or function that returns an nn.Module, in an installed package or the current "
        "folder, or file.py:name of an adapter"
    )
    return LipbenchError(_message("cannot load the external layer or network", f"{name!r} ({why})", do))


def not_allowed(names: Sequence[str]) -> LipbenchError:
    do = f"look at this code, and add --allow {shlex.quote(','.join(names))} if it may run on this machine"
    return LipbenchError(_message("the run names external layers or networks, whose code would be run", ", ".join(names), do))


def adapter_needed(name: str, why: str, kind: str, lines: str) -> LipbenchError:
    """The lines after the first are the adapter file to write."""
    option = "--method" if kind == "layer" else "--network"
    do = (
        f"give it with --with NAME=VALUE, or write an adapter as below, say adapter.py, check what it passes on, and give "
        f"{option} adapter.py:{kind}"
    )
    return LipbenchError(_message(f"cannot tell the arguments of an external {kind}", f"{name!r} ({why})", do) + f"\n\n{lines}")


def wrapper_needed(name: str, what: str, got: str, forward: str, kind: str, lines: str) -> LipbenchError:
    """The lines after the first are the adapter file to write."""
    do = f"wrap it in a module whose forward(x) returns {forward}, as in the adapter below, and check what it passes on"
    return LipbenchError(_message(f"the forward pass of an external {kind} {what}", f"{name!r} ({got})", do) + f"\n\n{lines}")


def unknown_setting(name: str, got: str, known: object) -> LipbenchError:
    do = f"choose from {_listing(known)}" if known else "leave --with out, since it takes no arguments"
    return LipbenchError(_message(f"an external layer or network has no parameter {got!r}", repr(name), do))


def not_settings(got: str) -> LipbenchError:
    do = "give for example --with stride=2,bias=False; values are numbers, True, False, None, quoted text, and tuples of these"
    return LipbenchError(_message("--with takes NAME=VALUE, each name once", repr(got), do))


def only_external(option: str) -> LipbenchError:
    do = f"leave {option} out, or name a layer as package.module:name or file.py:name"
    return LipbenchError(_message(f"{option} applies to external layers and networks alone", "none of them", do))


def needs_cuda(name: str, why: str) -> LipbenchError:
    do = "run it with --device cuda on a machine with a GPU"
    return LipbenchError(_message("an external layer or network needs a CUDA device", f"{name!r} on a CPU ({why})", do))


def not_a_module(name: str, got: str) -> LipbenchError:
    do = "have the class or function return the layer or network itself"
    what = "an external class or function must return a torch.nn.Module"
    return LipbenchError(_message(what, f"{name!r}, which returns an object of type {got}", do))


def unreadable_file(path: object, why: str) -> LipbenchError:
    do = "remove it, and run the command that wrote it again"
    return LipbenchError(_message("not a readable file", f"{path} ({why})", do))


def foreign_json(path: object, why: str) -> LipbenchError:
    do = "give a run directory, or the JSON that pytest bench --benchmark-json wrote"
    return LipbenchError(_message("not a benchmark file of lipbench", f"{path} ({why})", do))


def no_layer() -> LipbenchError:
    return LipbenchError(_message("no layer to count", "neither a NAME nor --method", "name one, such as aol"))


def two_versions(path: object) -> LipbenchError:
    do = f"give {path}/head, or both: lipbench compare {path}/base {path}/head"
    return LipbenchError(_message("two runs, of two versions", path, do))


def no_samples(path: object) -> LipbenchError:
    return LipbenchError(_message("benchmark file without samples", path, "write it with --benchmark-json"))


def not_writable(path: object, why: str) -> LipbenchError:
    return LipbenchError(_message("cannot write to this path", f"{path} ({why})", "choose another path"))


def empty_path(option: str) -> LipbenchError:
    return LipbenchError(_message(f"{option} takes a path", "''", "give the name of a file or directory"))


def no_output_file(kind: str) -> LipbenchError:
    return LipbenchError(_message(f"{kind} needs an output file", "none", "add -o FILE"))


def format_against_ending(format: str, path: object, by_ending: object) -> LipbenchError:
    what, got = "the format and the file extension contradict each other", f"--format {format} and {path}"
    return LipbenchError(_message(what, got, f"leave --format out to write {by_ending}, or choose another extension"))


def unknown_ending(path: object, known: object) -> LipbenchError:
    what = "no format has this file extension"
    return LipbenchError(_message(what, path, f"add --format, or use one of {_listing(known)}"))


def not_in_list(option: str, got: object) -> LipbenchError:
    return LipbenchError(_message(f"{option} takes whole numbers, separated by commas", repr(got), "give for example 16,32"))


def empty_in_list(option: str, got: str, known: object) -> LipbenchError:
    """`known` are the names that the list may have; empty where they are too many to name."""
    what, named = f"an empty entry in the list of {option}", f" from {_listing(known)}" if known else ""
    do = f"leave out the comma too many, or name one more{named}" if "," in got else f"give at least one{named or ' entry'}"
    return LipbenchError(_message(what, repr(got), do))


def unknown_shell() -> LipbenchError:
    do = "call it in a terminal of bash, zsh, fish or PowerShell"
    return LipbenchError(_message("completion needs a shell that it knows", "another one, or none", do))


def no_number(option: str, got: object) -> LipbenchError:
    return LipbenchError(_message(f"{option} takes a number", repr(got), "give one such as 0.5 or 1e-3"))


def not_positive_number(option: str, got: object) -> LipbenchError:
    return LipbenchError(_message(f"{option} must be greater than 0", got, "give a positive number"))


def resume_without_run() -> LipbenchError:
    return LipbenchError(_message("no run to resume is given", "--resume without --out", "add --out DIR"))


def another_gpu(path: object, begun_on: str, got: str) -> LipbenchError:
    what = f"the run {path} was started on {begun_on}, and times of different GPUs must not be mixed"
    return LipbenchError(_message(what, got, "choose another --out, or resume it on the GPU that it was started on"))


def resume_without_cases() -> LipbenchError:
    what = "no cases to add to the run are given"
    got = "--resume with conditions alone"
    return LipbenchError(
        _message(what, got, "name a preset, methods or sizes too, or leave the conditions out to resume the run as planned")
    )


def retry_without_resume() -> LipbenchError:
    return LipbenchError(
        _message("only an existing run can be retried", "--retry-failed or --retry-contended without --resume", "add --resume")
    )


def nothing_can_run(cases: int, reason: str) -> LipbenchError:
    """`reason` is itself a message of this module, and says what to do."""
    return LipbenchError(f"none of {cases} {'case' if cases == 1 else 'cases'} can run: {reason}")


def survey_failed(why: str) -> LipbenchError:
    return LipbenchError(_message("PyTorch or a layer cannot be imported", why, "import them in Python to see why"))


def unreadable_record(path: object, why: str) -> LipbenchError:
    do = "measure its case again with --resume, or move the file away if it belongs to no case of this run"
    return LipbenchError(_message("not a readable record", f"{path} ({why})", do))


def unreadable_plan(path: object, why: str) -> LipbenchError:
    do = "give a directory that lipbench profile wrote; a run without its plan cannot be resumed"
    return LipbenchError(_message("not a readable plan of a run", f"{path} ({why})", do))


def unreachable_file(path: object, why: str) -> NotOursError:
    return NotOursError(_message("cannot open the file", f"{path} ({why})", "make it readable, or move it away"))


def needs_values(method: str, why: str) -> LipbenchError:
    do = "remove calls that need a tensor's values, such as .item(), bool() and .numpy(), from it, or use lipbench profile"
    return LipbenchError(_message(f"{method} cannot run on tensors without values", why, do))


def refuses_all(method: str, why: str) -> LipbenchError:
    do = "give sizes that it supports with --channels, --image-size and --kernel-size"
    return LipbenchError(_message(f"{method} runs at none of these sizes", why, do))


def too_few_sizes(method: str, option: str, taken: object, why: str) -> LipbenchError:
    got = f"{option} {taken} ({why})"
    return LipbenchError(_message(f"too few sizes for {method}", got, f"give more sizes that it supports with {option}"))


def kernel_too_large(title: str, got: int, largest: int) -> UnsupportedError:
    return UnsupportedError(_message(f"{title} has no kernel of this size", got, f"use 1 or {largest}"))


def cannot_copy(module: str, why: str) -> UnsupportedError:
    do = "keep what cannot be copied out of the module's attributes, or give it a __deepcopy__ that works"
    return UnsupportedError(_message(f"{module} cannot be copied, and only a copy is certified", why, do))


def no_triton() -> UnsupportedError:
    return UnsupportedError(_message("kernels need triton", "a Python without it", "install lipbench[triton], on Linux"))


def no_peers() -> LipbenchError:
    return LipbenchError(_message("peers are layers of other packages", "none of these packages", "install lipbench[peers]"))


def not_a_share(option: str, text: str) -> LipbenchError:
    return LipbenchError(_message(f"{option} takes a share up to 100%", repr(text), "write it like 5%"))


def not_a_gate(text: str) -> LipbenchError:
    return LipbenchError(_message("--fail-on takes slower and memory with a share", repr(text), "write slower:5%,memory:1%"))


def nothing_in_common(base: object, head: object) -> LipbenchError:
    return LipbenchError(_message("compared runs need common cases", f"none in {base} and {head}", "measure the same cases"))


def two_machines(base: str, head: str) -> LipbenchError:
    return LipbenchError(
        _message("compared runs come from one machine", f"{base} and {head}", "measure again, or give --any-machine")
    )


def both_versions() -> LipbenchError:
    return LipbenchError(_message("one base is compared", "--against and --against-ref", "leave one of them out"))


def only_against() -> LipbenchError:
    what = "profile compares only with another version"
    return LipbenchError(
        _message(what, "--fail-on without --against", "add --against or --against-ref, or use lipbench compare")
    )


def not_against(option: str) -> LipbenchError:
    what = "two versions have as many rounds as each other, measured in turns"
    return LipbenchError(_message(what, f"{option} with --against", f"leave {option} out"))


def no_other_version(python: str, why: str) -> LipbenchError:
    do = "give the Python interpreter of an environment in which another lipbench is installed"
    return LipbenchError(_message("cannot run the other version", f"{python} ({why})", do))


def option_of_one_version(name: str, python: str, missing: Sequence[str]) -> LipbenchError:
    do = "leave it out, or compare with a newer version"
    return LipbenchError(_message(f"the {name} has no such option", f"{', '.join(missing)} for the lipbench of {python}", do))


def version_failed(name: str, why: str) -> LipbenchError:
    do = "make this command line work with both versions"
    return LipbenchError(_message(f"the {name} cannot measure what is requested", why.removeprefix("lipbench: "), do))


def unreadable_version(name: str, why: str) -> LipbenchError:
    do = "run this command with the newer of both versions"
    return LipbenchError(_message(f"the {name} writes records that this lipbench cannot read", why, do))


def no_turn_in_time() -> LipbenchError:
    return LipbenchError(_message("the deadline ended before both versions were measured", "no turn", "give more time"))


def git_failed(what: str, why: str) -> LipbenchError:
    do = "call this in a git repository, with a commit, branch or tag of it"
    return LipbenchError(_message("git cannot provide the other version", f"{what} ({why})", do))


def nothing_of_the_commit(root: object) -> LipbenchError:
    do = "name a layer that lies in this repository, or install lipbench from it as editable"
    return LipbenchError(_message("both versions would be the same", f"nothing that is measured lies in {root}", do))


def another_base(path: object, before: str, got: str) -> LipbenchError:
    do = "name the same version again, or choose another --out"
    return LipbenchError(_message(f"the base of {path} was {before}", got, do))


def cannot_compile(line: str) -> LipbenchError:
    """`line` is a message of `lipbench_kernels.resources`, and says what is wrong, what was got and what to do."""
    return LipbenchError(line)


def cache_is_export() -> UnsupportedError:
    do = "compare its inference, which is timed with the cache full, or leave out --exported"
    return UnsupportedError(_message("a layer with an evaluation cache needs no exported form", "such a layer", do))


def no_export() -> UnsupportedError:
    do = "write a function export(module) in the adapter's file, or leave out --exported"
    return UnsupportedError(_message("the module has no exported form", "neither vanilla_export nor parametrizations", do))


def exported_recomputed() -> LipbenchError:
    do = "leave out one of exported and recompute"
    return LipbenchError(_message("an exported form has no backward pass that could compute anything again", "both", do))


def no_halves_to_recompute(method: str) -> UnsupportedError:
    do = "call its parts through torch.utils.checkpoint in the layer itself, or leave out recompute"
    what = "only layers of lipbench are computed again in the backward pass, half by half"
    return UnsupportedError(_message(what, f"{method}, which contains none", do))


def export_not_predicted() -> LipbenchError:
    return LipbenchError(_message("memory is predicted for modules as they are trained", "an exported form", "profile it"))


def compiled_not_predicted() -> LipbenchError:
    do = "predict it without torch.compile, or profile it"
    return LipbenchError(_message("times are predicted for modules as they are written", "a compiled case", do))


def no_rate(number: str, name: str) -> LipbenchError:
    return LipbenchError(_message(f"no rate of {number} numbers is known", name, "predict in float32, or for a GPU by --gpu"))


def no_rates() -> LipbenchError:
    do = "run lipbench calibrate once, or give a file of it by --rates, or a GPU by --gpu"
    return LipbenchError(_message("times are predicted from the rates of a device", "none for this machine", do))


def run_has_its_cases(path: object) -> LipbenchError:
    return LipbenchError(_message("--run predicts the cases of a run", path, "drop the options that choose other cases"))


def nothing_to_compare(path: object, name: str) -> LipbenchError:
    do = "give a run that was measured on the device whose rates these are"
    return LipbenchError(_message(f"no time of the run can be predicted from the rates of {name}", path, do))


def export_is_no_module(got: str) -> LipbenchError:
    do = "return the exported nn.Module from export() or vanilla_export()"
    return LipbenchError(_message("the exported form is not an nn.Module", f"an object of type {got}", do))


def no_cxx_compiler() -> UnsupportedError:
    do = "install g++ or clang++, name one in CXX, or profile without --compile"
    return UnsupportedError(_message("torch.compile needs a C++ compiler on a CPU", "a machine without one", do))


def bad_budget(unit: str, amount: float) -> LipbenchError:
    do = "give a number of seconds above 0" if unit == "seconds" else "give a whole number above 0"
    return LipbenchError(_message(f"no training budget in {unit}", repr(amount), do))


def bad_rate(name: str, value: float) -> LipbenchError:
    least = "above 0" if name == "learning rate" else "from 0"
    return LipbenchError(_message(f"no {name}", repr(value), f"give a finite number {least}"))


def no_trainings(path: object) -> LipbenchError:
    do = "give a directory that lipbench train or lipbench search wrote"
    return LipbenchError(_message("no trainings to show", f"{path} without a folder training", do))


def no_training(path: object) -> LipbenchError:
    do = "give the folder of one training, such as runs/worth/training/NAME, or its weights.safetensors"
    return LipbenchError(_message("not the folder of a training", path, do))


def one_table(got: str) -> LipbenchError:
    do = "give a directory, with or without --draws, or --published, with or without --dataset"
    return LipbenchError(_message("accuracy prints the table of your trainings or that of the paper", got, do))


def only_trainings(path: object) -> LipbenchError:
    do = "print them with lipbench accuracy, or show them with lipbench report"
    return LipbenchError(_message("no measured layers to print", f"{path}, which holds trainings alone", do))


def unreadable_training(path: object, why: str) -> LipbenchError:
    do = "move its folder away, and train again with lipbench train"
    return LipbenchError(_message("not a readable record of a training", f"{path} ({why})", do))


def unreadable_checkpoint(path: object, why: str) -> LipbenchError:
    do = "remove it to train from the start, or give a file that lipbench train wrote"
    return LipbenchError(_message("not a readable checkpoint", f"{path} ({why})", do))


def training_exists(path: object) -> LipbenchError:
    return LipbenchError(
        _message("the folder already holds this training", path, "add --resume to continue, or choose another --out")
    )


def one_budget(got: int) -> LipbenchError:
    do = "give --epochs, --seconds or --steps"
    return LipbenchError(_message("a training has one budget", f"{got} of them" if got else "none", do))


def nothing_to_train() -> LipbenchError:
    do = "give --method aol,soc with --size XS, or --network file.py:name"
    return LipbenchError(_message("no network to train is given", "neither --method nor --network", do))


def no_data(name: str, folder: object, published: str, marker: str) -> LipbenchError:
    what, got = (
        f"{name} is read from a folder, and is not downloaded",
        "no folder" if folder is None else f"{folder} without it",
    )
    do = (
        f"put the published folder {published} (with its file {marker}) into a folder, and name that by --data or LIPBENCH_DATA"
    )
    return LipbenchError(_message(what, got, do))


def unreadable_data(path: object, why: str) -> LipbenchError:
    return LipbenchError(_message("not a file of this data set", f"{path} ({why})", "put the published file in its place"))


def empty_part(name: str, part: str) -> LipbenchError:
    do = "choose another part, or a training that holds images out"
    return LipbenchError(_message(f"{name} has no images in this part", part, do))


def no_train_extra(what: str, package: str) -> LipbenchError:
    return LipbenchError(_message(f"{what} needs {package}", "a Python without it", "run pip install 'lipbench[train]'"))


def no_package(what: str, package: str) -> LipbenchError:
    return LipbenchError(_message(f"missing for {what}", f"a Python without {package}", f"run pip install {package}"))


def attack_beats_certificate(images: int, radius: float) -> LipbenchError:
    what = f"an attack changed the class within the certified radius {radius:.6g}, which no 1-Lipschitz network allows"
    got = f"{images} such {'image' if images == 1 else 'images'}"
    return LipbenchError(_message(what, got, "trust no certified accuracy of this network, and report this as a bug"))


def unreadable_journal(path: object, why: str) -> LipbenchError:
    do = "move it away and run the command again; finished trainings are not repeated"
    return LipbenchError(_message("not a readable journal of a search", f"{path} ({why})", do))


def evaluated_elsewhere(folder: object, part: str) -> LipbenchError:
    what = "a draw is chosen by its evaluation on the validation images"
    return LipbenchError(_message(what, f"one on {part} images in {folder}", "move the folder away, or choose another --out"))


def training_interrupted(folder: object, why: str) -> LipbenchError:
    return LipbenchError(
        _message("a training was interrupted", f"{folder} ({why})", "run the same command again to continue it")
    )


def bad_range(option: str, got: str) -> LipbenchError:
    do = "write the ends as LOW,HIGH with 0 < LOW ≤ HIGH, such as 1e-4,1e-1"
    return LipbenchError(_message(f"{option} takes a range", repr(got), do))


def bad_weights(path: object, why: str) -> LipbenchError:
    do = "give the file of this method and size, or another --method, --size or --dataset"
    return LipbenchError(_message("not the published weights of this network", f"{path} ({why})", do))


def not_published(method: str, known: object) -> LipbenchError:
    return LipbenchError(_message("no weights of this method are published", repr(method), f"choose from {_listing(known)}"))


def what_to_evaluate() -> LipbenchError:
    do = "give the folder of a training, or --llc FILE with --method"
    return LipbenchError(_message("one trained network is evaluated", "none, or more than one", do))


def gpu_and_device(gpu: str, device: str) -> LipbenchError:
    got = f"the GPU {gpu} and the device {device}"
    return LipbenchError(_message("times and memory are those of one machine", got, "leave one of them out"))


def no_accuracies(dataset: str, known: object) -> LipbenchError:
    do = f"choose from {_listing(known)}, or give a run with trainings on it by --run"
    return LipbenchError(_message("the paper has no accuracies on this data set", repr(dataset), do))


def no_candidates(known: Sequence[str]) -> LipbenchError:
    do = f"choose from {', '.join(known)}"
    return LipbenchError(_message("nothing to choose from", "methods and sizes of which no network has an accuracy", do))


def nothing_to_draw() -> LipbenchError:
    what = "a figure needs networks with an accuracy and a cost"
    return LipbenchError(_message(what, "none", "leave out --figure, or choose other methods and sizes"))

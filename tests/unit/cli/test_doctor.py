import dataclasses
import importlib.metadata
import shutil
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from memlm.cli import doctor
from memlm.errors import ConfigError, RunError
from memlm.experiment import device, environment
from memlm.experiment.device import TorchDevice, find_torch_device
from memlm.experiment.environment import check_folder, check_packages, check_platform, find_demands

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(doctor.command)
CPU = TorchDevice("cpu", [], False, 2, "cpu", plain="the device is cpu")
GPU = TorchDevice("cuda", [("NVIDIA GeForce RTX 4090", 23.6)], True, 8, "cuda 12.8")


@pytest.fixture
def versions(monkeypatch):
    """Stands for what is installed: every package that memlm names, at the lowest version of its range."""
    demands = find_demands()
    wanted = [*demands.packages, *(member for extra in demands.extras.values() for member in extra)]
    lowest = {r.name: next(s.version for s in r.specifier if s.operator == ">=") for r in wanted}

    def version(package):
        if package not in lowest:
            raise PackageNotFoundError(package)
        return lowest[package]

    monkeypatch.setattr(environment, "version", version)
    return lowest


@pytest.fixture
def examine(tmp_path, monkeypatch, versions):
    monkeypatch.setenv("MEMLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(environment.shutil, "which", lambda _name: None)

    def examine(*arguments, found=CPU):
        monkeypatch.setattr(environment, "find_torch_device", lambda: found)
        done = CliRunner().invoke(app, [*map(str, arguments), "--runs", str(tmp_path / "runs")])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return examine


def lines_about(done, what):
    """Returns the line about one thing, and the one below it."""
    lines = done.output.splitlines()
    index = next(index for index, line in enumerate(lines) if line.split()[1:2] == [what])
    return "\n".join(lines[index : index + 2])


def write_config(path, data, train=""):
    path.write_text(f"data: {{{data}}}\ntrain: {{steps: 1{train}}}\nvariants: {{dense: {{}}}}\n")
    return path


def test_without_a_gpu_all_is_well(examine, tmp_path):
    done = examine()
    assert done.exit_code == 0
    assert done.output.rstrip().endswith("ready")
    assert "no GPU; experiments run on the CPU" in lines_about(done, "device")
    assert "python-docs" in lines_about(done, "corpora")
    about = lines_about(done, "kernels").splitlines()[0]
    assert about.startswith("ok ") and "product_key_select" in about and about.endswith(": the device is cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_no_failure_and_has_its_line(examine, versions):
    del versions["datasets"], versions["wandb"]
    done = examine()
    assert done.exit_code == 0
    about = lines_about(done, "datasets")
    assert about.startswith("missing")
    assert "optional" in about
    assert about.endswith(" pip install 'memlm[hub]'")
    assert "pip install 'memlm[wandb]'" in lines_about(done, "wandb")


def test_a_missing_package_is_a_failure(examine, versions):
    del versions["torch"]
    done = examine()
    assert done.exit_code == 1
    assert "pip install 'torch>=2.11,<2.14'" in lines_about(done, "torch")
    assert "1 missing" in done.output


@pytest.mark.parametrize("version", ["2.10.1", "2.14.0+cu130", "3.0"])
def test_a_version_outside_the_range_is_a_warning(examine, versions, version):
    versions["torch"] = version
    done = examine()
    assert done.exit_code == 0
    assert f"warning torch           {version} is outside >=2.11,<2.14" in lines_about(done, "torch")


def test_a_local_build_is_inside_the_range(versions):
    versions["torch"] = "2.13.0+cpu"
    marks = {check.what: check.mark for check in check_packages(find_demands())}
    assert marks["torch"] == "ok"


def test_the_installed_metadata_count_before_the_source_tree(monkeypatch):
    lines = ["torch>=9", 'datasets>=4; extra == "hub"', 'ruff; extra == "dev"', 'tomli; python_version < "3"']
    monkeypatch.setattr(environment, "requires", lambda _name: lines)
    monkeypatch.setattr(environment, "metadata", lambda _name: {"Requires-Python": ">=3.99"})
    demands = find_demands()
    assert [str(requirement) for requirement in demands.packages] == ["torch>=9"]
    assert [requirement.name for requirement in demands.extras["hub"]] == ["datasets"]
    assert demands.is_installed
    python = next(check for check in check_packages(demands) if check.what == "Python")
    assert python.mark == "warning"


def test_without_metadata_the_source_tree_counts(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(environment, "requires", absent)
    demands = find_demands()
    assert not demands.is_installed
    assert "torch" in [requirement.name for requirement in demands.packages]
    assert all(demands.extras.values())


def test_every_extra_for_users_is_known():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {*project["optional-dependencies"]} - {"dev", "docs"} == {*environment.EXTRAS}


def test_a_gpu_is_named_with_its_memory(examine):
    done = examine(found=GPU)
    assert "NVIDIA GeForce RTX 4090 (23.6 GiB), torch for cuda 12.8" in lines_about(done, "device")
    assert lines_about(done, "bf16").startswith("ok")


def test_kernels_that_run_are_named(examine, versions):
    versions["triton"] = "3.6.0"
    about = lines_about(examine(found=GPU), "kernels").splitlines()[0]
    assert about.startswith("ok ") and "Triton 3.6.0: fetch_rows, gather_joined, product_key_select" in about


@pytest.mark.parametrize(
    ("reason", "mend"),
    [
        ("MEMLM_KERNELS=reference", "unset MEMLM_KERNELS"),
        ("triton is not installed", "pip install triton"),
        ("Triton fails: RuntimeError: Failed to find C compiler.", "install gcc"),
    ],
)
def test_a_gpu_without_kernels_is_a_warning_with_its_reason(examine, reason, mend):
    done = examine(found=dataclasses.replace(GPU, plain=reason))
    assert done.exit_code == 0
    about, below = lines_about(done, "kernels").splitlines()
    assert about.startswith("warning ") and about.endswith(f": {reason}")
    assert mend in below


def test_a_gpu_that_torch_was_not_built_for_is_a_failure(examine):
    done = examine(found=TorchDevice("cuda", GPU.gpus, False, 8, "cuda 12.8", "no kernel image"))
    assert done.exit_code == 1
    assert "cannot compute: no kernel image" in lines_about(done, "device")


def test_imitated_bf16_is_a_warning(examine):
    done = examine(found=TorchDevice("cuda", [("Tesla T4", 15.0)], False, 8, "cuda 12.8"))
    assert done.exit_code == 0
    assert "-o train.precision=fp32" in lines_about(done, "bf16")


def test_a_driver_without_a_gpu_build_is_a_warning(examine, monkeypatch):
    monkeypatch.setattr(environment.shutil, "which", lambda name: f"/usr/bin/{name}")
    done = examine()
    assert done.exit_code == 0
    assert "there is an NVIDIA driver, but torch (for cpu) sees no GPU" in lines_about(done, "device")


def test_torch_itself_says_what_there_is(monkeypatch):
    monkeypatch.delenv("MEMLM_KERNELS", raising=False)
    found = find_torch_device()
    assert found.kind in ("cpu", "cuda", "mps")
    assert found.kind == "cuda" or found.plain == f"the device is {found.kind}"
    assert found.threads >= 1


def test_a_stuck_or_broken_torch_is_told_in_time(monkeypatch):
    with pytest.raises(RunError, match=r"did not say within 0 s"):
        find_torch_device(timeout=0.01)
    monkeypatch.setattr(device, "MODULE", "memlm.no_such_module")
    with pytest.raises(RunError, match=r"torch cannot be used: .*No module named"):
        find_torch_device()


def test_a_folder_that_cannot_be_written_is_missing(tmp_path):
    (tmp_path / "file").write_text("")
    check = check_folder("runs", tmp_path / "file" / "runs", "choose another")
    assert (check.mark, check.mend) == ("missing", "choose another")
    assert "is not a folder" in check.detail


def test_a_refused_write_is_missing(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(environment.tempfile, "TemporaryFile", refuse)
    assert "cannot be written (Permission denied)" in check_folder("runs", tmp_path / "new", "mend").detail


def test_little_space_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=4.9e9))
    check = check_folder("runs", tmp_path, "choose another")
    assert check.mark == "warning"
    assert "4.9 GB free, less than 5 GB" in check.detail


@pytest.mark.parametrize(
    ("system", "mark", "part"),
    [("Linux", "ok", "tested"), ("Darwin", "warning", "MPS, untested"), ("Windows", "warning", "--detach is refused")],
)
def test_the_platform_is_judged(system, mark, part):
    check = check_platform(system)
    assert check.mark == mark
    assert part in check.detail


def test_the_data_of_a_config_are_looked_for(examine, tmp_path):
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "x"}\n')
    config = write_config(tmp_path / "demo.yaml", f"corpus: [python-docs, '{text}'], validation: nowhere.jsonl")
    done = examine(config)
    assert done.exit_code == 1
    assert f"{text}: 1 file, 0.0 MB" in done.output
    assert "nowhere.jsonl: no file matches" in lines_about(done, "data.validation")
    sound = write_config(tmp_path / "demo.yaml", f"corpus: '{text}'")
    assert examine(sound).exit_code == 0


def test_what_a_config_asks_for_is_required(examine, versions, tmp_path):
    for package in ("datasets", "zstandard", "swanlab"):
        del versions[package]
    (tmp_path / "text.jsonl.zst").write_bytes(b"")
    corpus = f"corpus: ['hub:owner/name', '{tmp_path}/*.zst'], tokenizer: nowhere.json"
    done = examine(write_config(tmp_path / "demo.yaml", corpus, ", trackers: [swanlab]"))
    assert done.exit_code == 1
    tail = done.output[done.output.index("corpora") :]
    for extra in ("hub", "zst", "swanlab"):
        assert f"pip install 'memlm[{extra}]'" in tail
    assert "nowhere.json: there is no such file" in tail
    assert "4 missing" in tail


def test_a_wrong_config_is_an_error_of_the_config(examine, tmp_path):
    with pytest.raises(ConfigError, match="corpuss"):
        examine(write_config(tmp_path / "demo.yaml", "corpuss: python-docs"))


def test_the_checks_need_no_network(examine, tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)
    done = examine(write_config(tmp_path / "demo.yaml", "corpus: 'hub:owner/name'"))
    assert done.exit_code == 0
    assert "datasets" not in sys.modules

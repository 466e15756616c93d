"""What an experiment needs from the machine, as a list of checks: free of torch, and nothing here needs a network."""

from __future__ import annotations

import os
import pkgutil
import platform
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from memlm import __version__, kernels
from memlm.config.data import DataConfig
from memlm.errors import DataError, RunError, counted
from memlm.experiment.device import TorchDevice, find_torch_device

if TYPE_CHECKING:
    from memlm.experiment.config import ExperimentConfig

Mark = Literal["ok", "warning", "missing"]

EXTRAS = {
    "hub": "data sets of the Hugging Face hub",
    "zst": "text in .jsonl.zst files",
    "tensorboard": "train.trackers: [tensorboard]",
    "swanlab": "train.trackers: [swanlab]",
    "wandb": "train.trackers: [wandb]",
    "tune": "memlm tune",
    "ray": "memlm run --workers",
    "lm-eval": "memlm lm-eval",
    "fill": "memlm fill and bank.database",
    "bench": "comparison in memlm bench",
    "edit": "comparison in memlm edit --trial",
    "serve": "memlm serve and memlm inspect --serve",
}
"""The extras that users choose from, and what each is for."""
ENOUGH_BYTES = 5e9
INSTALL_TORCH = "install the torch build for your GPU: https://pytorch.org/get-started/locally"

MEND_KERNELS = {
    "MEMLM_KERNELS": "unset MEMLM_KERNELS",
    "triton": "pip install triton",
    "Triton fails": "it needs a C compiler (install gcc, or set CC) and a folder that it can write (TRITON_CACHE_DIR)",
}
"""How the kernels are mended, by how the reason starts why they do not run."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        what: Its name.
        mark: ok, warning (works, but look here) or missing.
        detail: What was found.
        mend: The line that mends it; empty if there is nothing to mend.
        is_required: Whether nothing can be run while it is missing.
    """

    what: str
    mark: Mark
    detail: str
    mend: str = ""
    is_required: bool = True

    @property
    def is_failure(self) -> bool:
        """Whether it stops an experiment."""
        return self.mark == "missing" and self.is_required


@dataclass(frozen=True)
class Demands:
    """What memlm's metadata asks for.

    Attributes:
        python: The range of Python's version.
        packages: The packages that are always needed.
        extras: The packages of each extra.
        is_installed: Whether it is the metadata of an installed memlm, or of its source tree.
    """

    python: SpecifierSet
    packages: list[Requirement]
    extras: dict[str, list[Requirement]]
    is_installed: bool


def find_demands() -> Demands:
    """Returns the demands of the installed memlm, or of the source tree if it runs from one.

    Raises:
        RunError: there is neither.
    """
    try:
        lines, python = requires("memlm") or [], metadata("memlm")["Requires-Python"]
        is_installed = True
    except PackageNotFoundError:
        lines, python = _source_demands()
        is_installed = False
    demands = Demands(SpecifierSet(python), [], {extra: [] for extra in EXTRAS}, is_installed)
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            demands.packages.append(requirement)
        for extra, members in demands.extras.items():
            if requirement.marker is not None and requirement.marker.evaluate({"extra": extra}):
                members.append(requirement)
    return demands


def check_platform(system: str | None = None) -> Check:
    """Says what is known about this operating system, or about ``system`` (as platform.system() names it)."""
    name = f"{platform.platform()}, Python {platform.python_version()}"
    match system or platform.system():
        case "Linux":
            return Check("platform", "ok", f"{name}: tested")
        case "Darwin":
            return Check("platform", "warning", f"{name}: expected to work on CPU and MPS, untested")
        case "Windows":
            detail = "expected to work on the CPU in the foreground, untested; --detach is refused here"
            return Check("platform", "warning", f"{name}: {detail}")
        case other:
            return Check("platform", "warning", f"{name}: nothing is known about {other}")


def check_packages(demands: Demands) -> Iterator[Check]:
    """Compares Python and the installed packages with what memlm asks for."""
    origin = "" if demands.is_installed else ", run from its source tree"
    yield Check("memlm", "ok", f"{__version__}{origin}")
    python = platform.python_version()
    is_inside = demands.python.contains(python, prereleases=True)
    yield (
        Check("Python", "ok", f"{python} ({demands.python})")
        if is_inside
        else Check("Python", "warning", f"{python} is outside {demands.python}", "make an environment with another one")
    )
    for requirement in demands.packages:
        yield _package_check(requirement, f"pip install '{_plain(requirement)}'")


def check_extras(demands: Demands) -> Iterator[Check]:
    """Says which optional packages are there, and the line that installs each."""
    for extra, purpose in EXTRAS.items():
        for requirement in demands.extras[extra]:
            yield _package_check(requirement, install_line(extra), purpose)


def check_devices() -> Iterator[Check]:
    """Says what torch can compute on, and whether that has bf16 and the memory's kernels."""
    name, cores = processor(), psutil.cpu_count(logical=False) or 0
    memory = psutil.virtual_memory()
    cpu = f"{name}, {cores} cores, {psutil.cpu_count()} hardware threads"
    ram = f"RAM {memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB available"
    try:
        found = find_torch_device()
    except RunError as error:
        yield Check("CPU", "ok", f"{cpu}, {ram}")
        yield Check("device", "missing", str(error), "see the lines about packages; then: python -c 'import torch'")
        return
    yield Check("CPU", "ok", f"{cpu}, {found.threads} used by torch, {ram}")
    yield _device_check(found)
    if not found.fault:
        yield _bf16_check(found)
        yield check_kernels(found)


def check_kernels(found: TorchDevice) -> Check:
    """Says which of the memory's operations run as Triton kernels on a device, and if none does, why."""
    operations = [module.name for module in pkgutil.iter_modules(kernels.__path__) if module.ispkg]
    forms = {
        op: [form.name for form in pkgutil.iter_modules([str(Path(kernels.__path__[0]) / op)])] for op in operations
    }
    fast = [op for op in operations if "fast" in forms[op]]
    if found.plain:
        mend = next((line for start, line in MEND_KERNELS.items() if found.plain.startswith(start)), "")
        is_lost = found.kind == "cuda"
        detail = f"plain torch, without Triton kernels for {', '.join(fast)}: {found.plain}"
        return Check("kernels", "warning" if is_lost else "ok", detail, mend if is_lost else "")
    plain = [op for op in operations if op not in fast]
    rest = f"; plain torch: {', '.join(plain)}" if plain else ""
    return Check("kernels", "ok", f"Triton {_version('triton')}: {', '.join(fast)}{rest}")


def check_folder(what: str, folder: Path, mend: str) -> Check:
    """Says whether ``folder`` can be written, and whether there is room; leaves nothing behind."""
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return Check(what, "missing", f"{folder}: {existing} is not a folder", mend)
    try:
        # Tried, not asked: what os.access says is not true for root, nor on every file system.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Check(what, "missing", f"{folder}: cannot be written ({error.strerror})", mend)
    free = shutil.disk_usage(existing).free
    detail = f"{folder}: can be written, {free / 1e9:.1f} GB free"
    if free < ENOUGH_BYTES:
        return Check(what, "warning", f"{detail}, less than {ENOUGH_BYTES / 1e9:.0f} GB", f"free some, or {mend}")
    return Check(what, "ok", detail)


def check_folders(runs: Path) -> Iterator[Check]:
    """Looks at the folder of all experiments and at the cache, and names the built-in corpora."""
    from memlm.data.cache import default_cache
    from memlm.data.corpus import BUILT_IN

    yield check_folder("runs", runs, "choose another folder with --runs")
    yield check_folder("cache", default_cache(), "set MEMLM_CACHE to another folder")
    yield Check("corpora", "ok", f"built in, no download: {', '.join(BUILT_IN)}")


def check_experiment(experiment: ExperimentConfig) -> Iterator[Check]:
    """Says whether an experiment's data files are there, and the optional packages that it asks for."""
    yield from _data_checks(experiment.data)
    for tracker in experiment.train.trackers:
        if _version(tracker) is None:
            yield Check("train.trackers", "missing", f"{tracker} is not installed", install_line(tracker))


def install_line(extra: str) -> str:
    """Returns the command that installs an extra."""
    return f"pip install 'memlm[{extra}]'"


def _source_demands() -> tuple[list[str], str]:
    path = Path(__file__).resolve().parents[3] / "pyproject.toml"
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise RunError(
            "memlm is neither installed nor run from its source tree; install it: pip install memlm"
        ) from error
    lines: list[str] = [*project["dependencies"]]
    for extra, members in project["optional-dependencies"].items():
        for member in members:
            name, _, marker = member.partition(";")
            lines.append(f'{name}; {f"({marker}) and " if marker else ""}extra == "{extra}"')
    return lines, project["requires-python"]


def _plain(requirement: Requirement) -> str:
    """Returns a requirement without its marker, as pip takes it."""
    return f"{requirement.name}{_range(requirement.specifier)}"


def _range(versions: SpecifierSet) -> str:
    """Returns a range with its lower end first; its own text has no such order."""
    return ",".join(sorted(map(str, versions), reverse=True))


def _version(package: str) -> str | None:
    # Its metadata, not find_spec: a folder of that name (wandb, datasets) in the working directory is no package.
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _package_check(requirement: Requirement, mend: str, purpose: str = "") -> Check:
    """Judges one package; one with a purpose is optional."""
    found, asked = _version(requirement.name), _range(requirement.specifier)
    tail = f", for {purpose}" if purpose else ""
    if found is None:
        detail = f"optional, not installed{tail}" if purpose else f"not installed; memlm needs {asked}"
        return Check(requirement.name, "missing", detail, mend, is_required=not purpose)
    if not requirement.specifier.contains(found, prereleases=True):
        return Check(
            requirement.name, "warning", f"{found} is outside {asked}{tail}", f"pip install '{_plain(requirement)}'"
        )
    return Check(requirement.name, "ok", f"{found} ({asked}){tail}")


def _device_check(found: TorchDevice) -> Check:
    gpus = ", ".join(f"{name} ({memory:.1f} GiB)" for name, memory in found.gpus)
    if found.fault:
        return Check(
            "device", "missing", f"{gpus or 'a GPU'} is found and cannot compute: {found.fault}", INSTALL_TORCH
        )
    if found.kind == "cuda":
        return Check("device", "ok", f"{gpus}, torch for {found.build}")
    if found.kind == "mps":
        return Check("device", "ok", "Apple GPU (MPS)")
    if shutil.which("nvidia-smi"):
        return Check(
            "device", "warning", f"there is an NVIDIA driver, but torch (for {found.build}) sees no GPU", INSTALL_TORCH
        )
    return Check("device", "ok", "no GPU; experiments run on the CPU")


def _bf16_check(found: TorchDevice) -> Check:
    if found.kind != "cuda":
        return Check("bf16", "ok", f"not used on {found.kind}; train.precision: auto is fp32 there")
    if found.bf16:
        return Check("bf16", "ok", "train.precision: auto uses it")
    return Check("bf16", "warning", "the GPU can only imitate it, slowly", "run with: -o train.precision=fp32")


def processor() -> str:
    """Returns the name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _data_checks(config: DataConfig) -> Iterator[Check]:
    for field, named in (
        ("corpus", config.corpus),
        ("validation", config.validation or []),
        ("test", config.test or []),
        ("tune", config.tune or []),
    ):
        for name in [named] if isinstance(named, str) else named:
            yield _source_check(f"data.{field}", name, config)
    if config.tokenizer is not None:
        is_there = os.path.isfile(os.path.expanduser(config.tokenizer))
        mend = "" if is_there else "mend the path, or leave it out to train a tokenizer"
        found = "found" if is_there else "there is no such file"
        yield Check("data.tokenizer", "ok" if is_there else "missing", f"{config.tokenizer}: {found}", mend)


def _source_check(field: str, name: str, config: DataConfig) -> Check:
    from memlm.data.corpus import BUILT_IN, PREFIX, find_sources
    from memlm.data.files import JsonLines
    from memlm.data.source import Reading

    if name in BUILT_IN:
        return Check(field, "ok", f"{name}: built in")
    try:
        sources = find_sources(name, Reading())
    except DataError as error:
        return Check(field, "missing" if config.on_bad_input == "error" else "warning", str(error))
    if name.startswith(PREFIX):
        if _version("datasets") is None:
            return Check(field, "missing", f"{name}: datasets is not installed", install_line("hub"))
        return Check(field, "ok", f"{name}: is read from the network, which was not tried")
    is_packed = any(isinstance(source, JsonLines) and source.path.suffix.lower() == ".zst" for source in sources)
    if is_packed and _version("zstandard") is None:
        return Check(field, "missing", f"{name}: zstandard is not installed", install_line("zst"))
    n_bytes = sum(source.size for source in sources)
    return Check(field, "ok", f"{name}: {counted(len(sources), 'file')}, {n_bytes / 1e6:,.1f} MB")

"""What the source must never do, read from its syntax."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "memlm"
FILES = sorted(SOURCE.rglob("*.py"))
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "torch.save", "yaml.load", "yaml.load_all", "yaml.unsafe_load"}
YAML_READERS = {"yaml.compose", "yaml.compose_all", "yaml.parse", "yaml.scan"}
WRITING = re.compile(r"\.write_(text|bytes)\(|open\([^)]*[\"'][wax]b?\+?[\"']|json\.dump\(|copyfile\(")
# What may write files by itself: tokens, numbers, profiles and locks hold no text that a user or a tracker gave.
OWN_WRITERS = {
    "storage.py": "the writer itself",
    "data/cache.py": "counts and hashes",
    "data/packing.py": "token ids",
    "data/prepare.py": "the tokenizer",
    "train/monitor.py": "metrics and profiles",
    "export/folder.py": "weights and settings of a checkpoint, copied",
    "experiment/locks.py": "an empty lock",
    "experiment/jobs.py": "the output of a process",
}


def dotted(node):
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def faults(tree):
    """Yields what a syntax tree does that could run somebody else's code, or open a server to everybody."""
    for name in imported(tree):
        if name.split(".")[0] in FORBIDDEN_MODULES or name in FORBIDDEN_CALLS:
            yield f"imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name, given = dotted(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
            if name in FORBIDDEN_CALLS:
                yield f"calls {name}"
            if name in YAML_READERS and "Safe" not in dotted(given.get("Loader")):
                yield f"calls {name} without a safe loader"
            for keyword in ("allow_pickle", "trust_remote_code", "shell"):
                value = given.get(keyword)
                if value is not None and not (isinstance(value, ast.Constant) and value.value is False):
                    yield f"passes {keyword}"
            if getattr(given.get("host"), "value", None) == "":
                yield "passes an empty host, which is every interface"
        if isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::"):
            yield f"names every interface: {node.value!r}; a server binds to 127.0.0.1 unless its user says otherwise"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_runs_what_a_file_says_and_nothing_listens_to_the_world(path):
    assert list(faults(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib",
        "import shelve",
        "import marshal",
        "from torch import load",
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.unsafe_load(text)",
        "yaml.compose(text)",
        "yaml.compose(text, Loader=yaml.FullLoader)",
        "eval(text)",
        "exec(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "uvicorn.run(app, host='0.0.0.0')",
        "server.bind(('::', 80))",
        "serve(app, host='')",
        "subprocess.run(line, shell=True)",
    ],
)
def test_the_walk_sees(code):
    assert list(faults(ast.parse(code)))


def test_the_walk_finds_the_files():
    assert len(FILES) >= 80
    assert {SOURCE / "storage.py", SOURCE / "train" / "checkpoint.py"} <= set(FILES)


def test_text_is_written_through_storage_which_redacts_it():
    found = {str(path.relative_to(SOURCE)) for path in FILES if WRITING.search(path.read_text(encoding="utf-8"))}
    assert found - set(OWN_WRITERS) == set(), "write through memlm.storage, which keeps credentials out"
    assert set(OWN_WRITERS) - found == set(), "no longer writes by itself; take it off the list"

"""Holds whole works out of a corpus: the test text of `configs/pays.yaml` is of books that no run has read.

    python experiments/hold_out.py 'corpus/train-*.jsonl.xz' corpus/works
    python experiments/hold_out.py 'corpus/train-*.jsonl.xz' corpus/works1 1     other works, for configs/pays_keys.yaml

writes train.jsonl and test.jsonl there, of text that is plain or packed by xz or gzip. A work is a book of many
chapters, or a file where there are none; a hash of its name decides, so that every part of a work is on the same side,
whatever the order of the text. The third argument is the number of a draw: no work is held out in two, so one whose
test text has been looked at leaves others unopened.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import sys
from contextlib import ExitStack
from glob import glob
from math import ceil
from pathlib import Path

from memlm.storage import replaced_folder

SHARE = 0.03
"""Share of the works that are held out."""
BOOKS = {"standardebooks": 0, "NiuTrans/Classical-Modern": 2}
"""How many folders below these repositories a whole book lies."""
OPENED = {".xz": lzma.open, ".gz": gzip.open}
"""What opens a packed file, by the end of its name."""


def work_of(source: str) -> str:
    """Returns the work that a document is of, by its source ``owner/repository:path``."""
    repository, _, path = source.partition(":")
    depth = BOOKS.get(repository, BOOKS.get(repository.partition("/")[0]))
    return source if depth is None else f"{repository}:{'/'.join(path.split('/')[:depth])}"


def is_held_out(work: str, draw: int = 0) -> bool:
    """Returns whether a work is of the test text of a draw."""
    place = int.from_bytes(hashlib.blake2b(work.encode(), digest_size=8).digest()) / 2**64
    return SHARE * draw <= place < SHARE * (draw + 1)


def main(pattern: str, folder: Path, draw: int = 0) -> None:
    """Writes the two texts and tells their sizes."""
    if not 0 <= SHARE * draw < 1:
        sys.exit(f"error: draw {draw} holds nothing out; the draws are 0 to {ceil(1 / SHARE) - 1}")
    names = sorted(glob(pattern))
    if not names:
        sys.exit(f"error: there is no file {pattern}")
    with replaced_folder(folder) as staged, ExitStack() as stack:
        test, train = (stack.enter_context((staged / f"{name}.jsonl").open("wb")) for name in ("test", "train"))
        for name in names:
            opened = OPENED.get(Path(name).suffix, open)
            for line in stack.enter_context(opened(name, "rb")):
                text = test if is_held_out(work_of(json.loads(line)["source"]), draw) else train
                text.write(line.removesuffix(b"\n") + b"\n")  # the last line of a file may have no end
    for path in sorted(folder.iterdir()):
        sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))

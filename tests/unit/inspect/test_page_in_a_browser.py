"""The page as a browser shows it, where Chromium is installed."""

import re
import shutil
import subprocess
import threading

import pytest
import uvicorn

from memlm.inspect.page import build_app, listen

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def address(runs):
    with listen(0) as listener:
        server = uvicorn.Server(uvicorn.Config(build_app(runs.open("readable")), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield "http://{}:{}".format(*listener.getsockname())
        server.should_exit = True
        thread.join()


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
def test_it_opens_with_a_text_what_it_reads_and_the_card_of_a_slot(address, tmp_path):
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    command += ["--virtual-time-budget=20000", "--dump-dom", address]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert re.search(r'id="error"[^>]*>([^<]*)', page)[1] == "", "the text that it opens with is none that it refuses"
    assert len(re.findall(r'data-slot="0/\d+"', page)) > 5, "slots that the text reads"
    card = page[page.index('<div id="card">') : page.index("<script")]
    for part in ("Slot ", "entry", "Read with most weight at", "Written by", "Most similar values"):
        assert part in card, part
    assert "not recorded" not in card, "this run has recorded its writers"

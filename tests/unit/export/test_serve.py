"""`memlm serve`, asked by the official client."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from openai import BadRequestError, OpenAI, UnprocessableEntityError
from typer.testing import CliRunner

from memlm.cli.main import app
from memlm.errors import MissingDependencyError, RunError
from memlm.experiment.trained import open_model
from memlm.export.serve import server_class
from memlm.hf import MemlmForCausalLM
from memlm.offload import HostBank

MODEL = "gated_mlp-s0"
PATIENCE_S = 120


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url, process):
    begin = time.monotonic()
    while time.monotonic() - begin < PATIENCE_S:
        assert process.poll() is None, process.stdout.read()
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"no answer within {PATIENCE_S} s")


@pytest.fixture(scope="module")
def server(runs):
    """A server's base address; at its end it must obey SIGINT and leave nothing behind."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "memlm.cli.main", "serve", str(runs / MODEL), "--port", str(port)],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1"
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert f"http://127.0.0.1:{port}/v1, model {MODEL!r}" in told
    assert "Traceback" not in told and "error" not in told and " 500 " not in told


@pytest.fixture(scope="module")
def client(server):
    return OpenAI(base_url=server, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def greedy(runs):
    """Returns how the run's model goes on with a text."""
    model, tokenizer = open_model(runs / MODEL, "cpu")

    def go_on(text, n):
        ids = tokenizer(text, return_tensors="pt").input_ids
        return tokenizer.decode(model.generate(ids, max_new_tokens=n, do_sample=False)[0, ids.shape[1] :])

    return go_on


def test_completions(client, greedy):
    found = client.completions.create(model=MODEL, prompt="ka lo", max_tokens=6, temperature=0)
    assert found.choices[0].text == greedy("ka lo", 6)
    assert found.usage.completion_tokens == 6


def test_chat(client, greedy):
    messages = [{"role": "user", "content": "ka lo"}]
    found = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=6, temperature=0)
    assert found.choices[0].message.content == greedy("ka lo\n", 6)


def test_streaming(client, greedy):
    messages = [{"role": "user", "content": "ka lo"}]
    chunks = list(
        client.chat.completions.create(model=MODEL, messages=messages, max_tokens=6, temperature=0, stream=True)
    )
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(pieces) == greedy("ka lo\n", 6)
    text = client.completions.create(model=MODEL, prompt="ka lo", max_tokens=6, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in text if chunk.choices) == greedy("ka lo", 6)


def test_it_samples_unless_told_otherwise(client):
    drawn = {
        client.completions.create(model=MODEL, prompt="ka lo", max_tokens=8, seed=seed).choices[0].text
        for seed in (1, 2, 1)
    }
    assert len(drawn) == 2


def test_another_model_is_not_found_here(client):
    with pytest.raises(BadRequestError) as refused:
        client.completions.create(model="another", prompt="ka")
    assert refused.value.body["message"] == f"Server is pinned to '{MODEL}'; requested 'another'."
    assert refused.value.type == "invalid_request_error"


TALK = [{"role": "user", "content": "ka lo"}]


@pytest.mark.parametrize(
    ("kind", "body", "param", "message"),
    [
        ("completions", {"prompt": ""}, "prompt", "prompt: String should have at least 1 character"),
        ("completions", {}, "prompt", "prompt: Field required"),
        ("completions", {"prompt": ["ka", "lo"]}, "prompt", "prompt: Input should be a valid string"),
        ("completions", {"prompt": "ka", "max_tokens": -3}, "max_tokens", "max_tokens: Input should be greater than"),
        ("completions", {"prompt": "ka", "temperature": -3}, "temperature", "temperature: Input should be greater"),
        ("completions", {"prompt": "ka", "n": 2}, "n", "n: this server gives one answer"),
        ("completions", {"prompt": "ka", "logprobs": 0}, "logprobs", "logprobs: is not supported by this server"),
        ("completions", {"prompt": "ka", "frequency_penalty": -1}, "frequency_penalty", "frequency_penalty: Input"),
        ("completions", {"prompt": "ka", "stop": []}, "stop", "stop: must be a text or a list of texts"),
        ("completions", {"prompt": "ka", "suffix": 3}, "suffix", "suffix: Input should be a valid string"),
        ("completions", {"prompt": "ka", "nonsense": 1}, None, "Unexpected fields in the request: {'nonsense'}"),
        ("completions", [], None, "Input should be an object"),
        ("chat/completions", {"messages": []}, "messages", "messages: List should have at least 1 item"),
        ("chat/completions", {"messages": [{"role": "user"}]}, "messages", "messages.0.content: Field required"),
        ("chat/completions", {"messages": TALK, "logprobs": True}, "logprobs", "logprobs: is not supported"),
        ("chat/completions", {"messages": TALK, "max_completion_tokens": 0}, "max_completion_tokens", "max_compl"),
    ],
)
def test_a_bad_request_is_told_in_openais_form(client, kind, body, param, message):
    with pytest.raises((BadRequestError, UnprocessableEntityError)) as refused:
        client.post(f"/{kind}", body={"model": MODEL} | body if body else body, cast_to=object)
    assert refused.value.body["message"].startswith(message)
    assert (refused.value.param, refused.value.type) == (param, "invalid_request_error")


def test_a_taken_port_is_told(runs):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        line = ["serve", str(runs / MODEL), "--port", str(taken.getsockname()[1])]
        done = CliRunner().invoke(app, line)
    assert isinstance(done.exception, RunError)
    assert re.search("cannot be used .*; choose another with --port", str(done.exception))
    assert "http" not in done.output, "an address was told at which nobody answers"


def test_the_name_that_is_told_is_the_one_that_is_served(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("memlm.export.serve.Serve", lambda force_model, **_: print("served", force_model))
    shutil.copytree(runs / MODEL, tmp_path / "renamed")
    done = CliRunner().invoke(app, ["serve", str(tmp_path / "renamed"), "--port", str(free_port())])
    assert f"model {MODEL!r}" in done.output and f"served {MODEL}\n" in done.output


def test_a_missing_package_is_told(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingDependencyError, match=r"openai is needed for memlm serve; .*memlm\[serve\]"):
        CliRunner().invoke(app, ["serve", str(runs / MODEL)], catch_exceptions=False)


def test_values_may_be_elsewhere(runs):
    checkpoint = runs / MODEL / "checkpoint"
    held = server_class("host").from_pretrained(str(checkpoint), device_map="auto", dtype="auto")
    assert isinstance(held.decoder.banks[0], HostBank)
    assert server_class("device") is MemlmForCausalLM

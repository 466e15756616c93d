"""`memlm serve`, asked by the official client."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from openai import BadRequestError, OpenAI, UnprocessableEntityError
from transformers import BatchEncoding
from typer.testing import CliRunner

from memlm.cli.main import app
from memlm.errors import MissingDependencyError, RunError
from memlm.experiment.trained import open_model
from memlm.export.gate import LARGEST, gated
from memlm.export.serve import server_class
from memlm.offload import HostBank

MODEL = "gated_mlp-s0"
SEQ_LEN = 16
"""The tokens of a text that the model was trained on."""
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
        ("completions", {"prompt": "ka", "n": 2}, "n", "n: is not supported by this server; leave it out"),
        ("completions", {"prompt": "ka", "logprobs": 0}, "logprobs", "logprobs: is not supported by this server"),
        ("completions", {"prompt": "ka", "frequency_penalty": -1}, "frequency_penalty", "frequency_penalty: Input"),
        ("completions", {"prompt": "ka", "stop": []}, "stop", "stop: must be a text or a list of texts"),
        ("completions", {"prompt": "ka", "suffix": 3}, "suffix", "suffix: Input should be a valid string"),
        ("completions", {"prompt": "ka", "nonsense": 1}, "nonsense", "nonsense: is not supported by this server"),
        ("completions", {"prompt": "ka", "nonsense": None}, None, "Unexpected fields in the request: {'nonsense'}"),
        ("completions", {"prompt": "ka", "echo": True}, "echo", "echo: is not supported by this server"),
        ("completions", {"prompt": "ka", "presence_penalty": 1}, "presence_penalty", "presence_penalty: is not supp"),
        ("completions", {"prompt": "ka", "stream": "no"}, "stream", "stream: Input should be a valid boolean"),
        ("completions", {"prompt": "ka " * 40}, "prompt", "prompt: has"),
        ("completions", {"prompt": "ka " * 40, "stream": True}, "prompt", "prompt: has"),
        (
            "completions",
            {"prompt": "ka", "generation_config": "{"},
            "generation_config",
            "generation_config: Invalid J",
        ),
        (
            "completions",
            {"prompt": "ka", "generation_config": "3"},
            "generation_config",
            "generation_config: Input sho",
        ),
        (
            "completions",
            {"prompt": "ka", "generation_config": '{"top_k": "many"}'},
            "generation_config",
            "generation_config.top_k: Input should be a valid integer",
        ),
        (
            "completions",
            {"prompt": "ka", "generation_config": '{"num_beams": 2}'},
            "generation_config",
            "generation_config.num_beams: Extra inputs are not permitted",
        ),
        ("completions", [], None, "Input should be an object"),
        ("chat/completions", {"messages": []}, "messages", "messages: List should have at least 1 item"),
        ("chat/completions", {"messages": [{"role": "user"}]}, "messages", "messages.0.content: Field required"),
        ("chat/completions", {"messages": TALK, "logprobs": True}, "logprobs", "logprobs: is not supported"),
        ("chat/completions", {"messages": TALK, "max_completion_tokens": 0}, "max_completion_tokens", "max_compl"),
        ("chat/completions", {"messages": TALK, "presence_penalty": 0.5}, "presence_penalty", "presence_penalty: is n"),
        ("chat/completions", {"messages": TALK, "tool_choice": "required"}, "tool_choice", "tool_choice: is not supp"),
        ("chat/completions", {"messages": TALK, "tools": [{}]}, "tools", "tools: is not supported by this server"),
        (
            "chat/completions",
            {"messages": TALK, "response_format": {"type": "json_object"}},
            "response_format",
            "response_format: is not supported by this server",
        ),
        ("chat/completions", {"messages": TALK, "logit_bias": {"9": 1}}, "logit_bias", "logit_bias: is not supported"),
        ("chat/completions", {"messages": TALK * 9}, "messages", "messages: has"),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages",
            "messages.0.content",
        ),
        ("responses", {}, "input", "input: Field required"),
        ("responses", {"input": ""}, "input", "input"),
        ("responses", {"input": [3]}, "input", "input"),
        ("responses", {"input": [{"type": "function_call"}]}, "input", "input"),
        ("responses", {"input": "ka", "max_output_tokens": 0}, "max_output_tokens", "max_output_tokens: Input should"),
        ("responses", {"input": "ka", "temperature": "hot"}, "temperature", "temperature: Input should be a valid n"),
        ("responses", {"input": "ka", "parallel_tool_calls": 2}, "parallel_tool_calls", "parallel_tool_calls: Input s"),
        ("responses", {"input": "ka", "previous_response_id": "1"}, "previous_response_id", "previous_response_id: is"),
        ("responses", {"input": "ka", "truncation": "auto"}, "truncation", "truncation: is not supported"),
        ("responses", {"input": "ka " * 40}, "input", "input: has"),
        ("responses", {"input": "ka", "instructions": "lo " * 40}, "input", "input: has"),
    ],
)
def test_a_bad_request_is_told_in_openais_form(client, kind, body, param, message):
    with pytest.raises((BadRequestError, UnprocessableEntityError)) as refused:
        client.post(f"/{kind}", body={"model": MODEL} | body if body else body, cast_to=object)
    assert refused.value.body["message"].startswith(message)
    assert (refused.value.param, refused.value.type) == (param, "invalid_request_error")


CONTEXT = f"the model's maximum context length is {SEQ_LEN} tokens, that of the texts that it was trained on"


@pytest.fixture(scope="module")
def n_of(runs):
    """Counts the tokens of a text."""
    _, tokenizer = open_model(runs / MODEL, "cpu")
    return lambda text: len(tokenizer(text).input_ids)


@pytest.fixture(scope="module")
def longest(n_of):
    """The longest prompt after which there is room for a token."""
    return max(("ka " * n for n in range(1, 40) if n_of("ka " * n) < SEQ_LEN), key=n_of)


def test_a_prompt_leaves_room_for_an_answer(client, n_of, longest):
    found = client.completions.create(model=MODEL, prompt=longest, max_tokens=SEQ_LEN - n_of(longest))
    assert found.usage.prompt_tokens == n_of(longest)
    with pytest.raises(BadRequestError) as refused:
        client.completions.create(model=MODEL, prompt=longest + "ka " * 9, max_tokens=1)
    n = n_of(longest + "ka " * 9)
    told = f"prompt: has {n} tokens, and {CONTEXT}; shorten it, an answer needs room too"
    assert (refused.value.body["message"], refused.value.code) == (told, "context_length_exceeded")


@pytest.mark.parametrize(
    ("kind", "body", "name"),
    [
        ("completions", {"prompt": "ka lo"}, "max_tokens"),
        ("chat/completions", {"messages": TALK}, "max_tokens"),
        ("chat/completions", {"messages": TALK, "max_tokens": 1}, "max_completion_tokens"),
        ("responses", {"input": "ka lo"}, "max_output_tokens"),
        ("completions", {"prompt": "ka lo"}, "generation_config.max_new_tokens"),
    ],
)
def test_no_more_is_written_than_the_model_was_trained_on(client, n_of, kind, body, name):
    field, _, inner = name.partition(".")
    prompt = next(field for field in ("prompt", "messages", "input") if field in body)
    n = n_of("ka lo" if kind == "completions" else "ka lo\n")
    wanted = lambda n: json.dumps({inner: n}) if inner else n  # noqa: E731
    ask = lambda n: client.post(f"/{kind}", body={"model": MODEL} | body | {field: wanted(n)}, cast_to=object)  # noqa: E731
    ask(SEQ_LEN - n)
    with pytest.raises(BadRequestError) as refused:
        ask(SEQ_LEN - n + 1)
    told = f"{name}: {SEQ_LEN - n + 1} tokens after the {n} of {prompt}, and {CONTEXT}; ask for {SEQ_LEN - n}"
    assert (refused.value.body["message"], refused.value.param) == (told, field)


def test_a_request_that_does_not_say_how_much_gets_what_there_is_room_for(client, greedy, n_of):
    room = SEQ_LEN - n_of("ka lo\n")
    assert client.responses.create(model=MODEL, input="ka lo", temperature=0).output_text == greedy("ka lo\n", room)
    found = client.chat.completions.create(model=MODEL, messages=TALK, temperature=0)
    assert found.choices[0].message.content == greedy("ka lo\n", room)
    settings = json.dumps({"do_sample": False})
    found = client.completions.create(model=MODEL, prompt="ka lo\n", extra_body={"generation_config": settings})
    assert found.choices[0].text == greedy("ka lo\n", room)


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_body_that_is_too_large_is_refused(server, in_pieces):
    body = json.dumps({"model": MODEL, "prompt": "ka " * LARGEST}).encode()
    pieces = (body[start : start + 65536] for start in range(0, len(body), 65536))
    headers = {"Content-Type": "application/json"}
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"{server}/completions", pieces if in_pieces else body, headers))
    assert refused.value.code == 413
    assert json.load(refused.value)["error"]["message"] == "the request has more than 1,048,576 bytes; shorten it"


def test_others_are_answered_while_a_prompt_is_made_tokens():
    others = threading.Event()

    def slow(text):
        assert others.wait(PATIENCE_S / 4), "nobody else was answered meanwhile"
        return BatchEncoding({"input_ids": [0]})

    served = FastAPI()
    served.get("/health")(others.set)
    served.post("/v1/completions")(lambda: {})

    async def ask():
        transport = httpx.ASGITransport(gated(served, slow, SEQ_LEN))
        async with httpx.AsyncClient(transport=transport, base_url="http://memlm") as asked:
            answers = await asyncio.gather(asked.post("/v1/completions", json={"prompt": "ka"}), asked.get("/health"))
        return [answer.status_code for answer in answers]

    assert asyncio.run(ask()) == [200, 200]


def test_what_asks_for_nothing_else_is_answered(client, greedy):
    found = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": [{"type": "text", "text": "ka"}, {"type": "text", "text": "lo"}]}],
        max_completion_tokens=4,
        temperature=0,
        n=1,
        presence_penalty=0,
        tool_choice="none",
        response_format={"type": "text"},
        user="somebody",
        logprobs=False,
    )
    assert found.choices[0].message.content == greedy("ka lo\n", 4)


def test_transformers_own_settings_are_followed(client, greedy):
    settings = json.dumps({"do_sample": True, "top_k": 1, "max_new_tokens": 5})
    found = client.completions.create(model=MODEL, prompt="ka lo", extra_body={"generation_config": settings})
    assert found.choices[0].text == greedy("ka lo", 5)


def test_responses(client, greedy):
    asked = {"model": MODEL, "max_output_tokens": 6, "temperature": 0}
    assert client.responses.create(input="ka lo", **asked).output_text == greedy("ka lo\n", 6)
    events = list(client.responses.create(input=TALK, instructions="mi", stream=True, **asked))
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(pieces) == greedy("mi\nka lo\n", 6)


def test_a_failure_of_the_server_is_told_in_openais_form(runs):
    async def fail():
        raise RuntimeError("inside")

    served = FastAPI()
    served.post("/v1/completions")(fail)
    _, tokenizer = open_model(runs / MODEL, "cpu")
    asked = TestClient(gated(served, tokenizer, SEQ_LEN), raise_server_exceptions=False)
    answer = asked.post("/v1/completions", json={"prompt": "ka"})
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"
    assert answer.json()["error"]["message"] == "the server failed (RuntimeError); it has written why"


@pytest.mark.parametrize("path", ["load_model", "reset", "v1/audio/transcriptions", "v1/systemone", "docs"])
def test_what_is_not_told_of_is_not_there(server, path):
    address = f"{server.removesuffix('v1')}{path}"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(address, data=b'{"model": "another"}'))
    assert refused.value.code == 404
    assert json.load(refused.value)["error"]["message"].startswith(
        f"/{path}: there is nothing here; this server has /v1"
    )


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
    model, _ = open_model(runs / MODEL, "cpu", "host")
    held = server_class(model).from_pretrained(str(runs / MODEL / "checkpoint"), device_map="auto", dtype="auto")
    assert held is model and isinstance(held.decoder.banks[0], HostBank)

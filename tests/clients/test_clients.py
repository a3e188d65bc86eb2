"""Clients that users own, unchanged, against a real server."""

import json
from pathlib import Path

import pytest

from tests.clients.client_environment import run_client, run_script
from tests.clients.conftest import BUNDLED, Api

pytestmark = pytest.mark.e2e
TASKS = Path(__file__).parent / "tasks"
TOLERANCE = 1e-3


@pytest.mark.parametrize("script", ["use_litellm.py", "use_langchain.py"])
def test_a_library_answers_streams_and_calls_tools(api: Api, script: str) -> None:
    assert "good" in run_script(script, api.url, api.model)


def test_llm_in_a_terminal(api: Api, tmp_path: Path) -> None:
    model = {"model_id": "ours", "model_name": api.model, "api_base": api.url}
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([model]))
    variables = {"LLM_USER_PATH": str(tmp_path)}
    said = run_client("llm", "-m", "ours", "-o", "max_tokens", "8", "Document shutil.copyfile", variables=variables)
    assert said.strip()


def evaluate(tmp_path: Path, task: str, model: str, *arguments: str) -> list[dict[str, object]]:
    """The samples of a task, by document, as lm-eval's backend `model` answers them."""
    out = tmp_path / model
    own = tmp_path / "tasks"
    own.mkdir(exist_ok=True)
    for file in TASKS.iterdir():  # its data are found by their path
        (own / file.name).write_text(file.read_text().replace("stdlib.jsonl", str(TASKS / "stdlib.jsonl")))
    common = ("--tasks", task, "--include_path", str(own), "--log_samples", "--output_path", str(out))
    # Its datasets are cached by their path: no other run's.
    run_client("lm_eval", "run", "--model", model, *arguments, *common, variables={"HF_HOME": str(tmp_path / "home")})
    (samples,) = out.rglob("samples_*.jsonl")
    return sorted((json.loads(line) for line in samples.read_text().splitlines()), key=lambda one: one["doc_id"])


def test_lm_eval_has_the_log_likelihoods_of_its_own_backend(api: Api, tmp_path: Path) -> None:
    remote = f"model={api.model},base_url={api.url}/completions,tokenizer_backend=huggingface,tokenizer={BUNDLED}"
    ours = evaluate(tmp_path, "expertmesh_stdlib", "local-completions", "--model_args", remote + ",max_length=1024")
    own = f"pretrained={BUNDLED},dtype=float32"
    theirs = evaluate(tmp_path, "expertmesh_stdlib", "hf", "--device", "cpu", "--model_args", own)
    assert len(ours) == len(theirs) == 8
    for one, other in zip(ours, theirs, strict=True):
        scores = [[float(choice[0]) for choice in sample["filtered_resps"]] for sample in (one, other)]  # type: ignore[attr-defined]
        assert scores[0] == pytest.approx(scores[1], abs=TOLERANCE)


def test_lm_eval_chats(api: Api, tmp_path: Path) -> None:
    remote = f"model={api.model},base_url={api.url}/chat/completions"
    chat = ("--apply_chat_template", "--model_args", remote)
    samples = evaluate(tmp_path, "expertmesh_stdlib_chat", "local-chat-completions", *chat)
    assert len(samples) == 8


def test_guidellm_loads_it(api: Api, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    run_client(
        "guidellm",
        "run",
        *("--backend", f"kind=openai_http,target={api.root},model={api.model}"),
        *("--profile", "kind=concurrent,streams=4"),
        *("--constraint", "kind=max_duration,seconds=8"),
        *("--data", "kind=synthetic_text,prompt_tokens=32,output_tokens=16"),
        *("--tokenizer", f"kind=huggingface_auto,model={BUNDLED}"),
        *("--output", f"kind=json,path={out}", "--disable-console-interactive"),
    )
    (benchmark,) = json.loads(out.read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert totals["successful"] > 0
    assert totals["errored"] == 0


def test_aiperf_loads_it(api: Api, tmp_path: Path) -> None:
    run_client(
        "aiperf",
        "profile",
        *("--model", api.model, "--url", api.root, "--endpoint-type", "chat", "--streaming"),
        *("--concurrency", "4", "--request-count", "24", "--tokenizer", str(BUNDLED)),
        *("--synthetic-input-tokens-mean", "32", "--output-tokens-mean", "16"),
        *("--output-artifact-dir", str(tmp_path), "--ui-type", "none"),
        # Offline it takes a path for the name of a model that it must have cached.
        variables={"HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": ""},
    )
    figures = json.loads((tmp_path / "profile_export_aiperf.json").read_text())
    assert figures["request_count"]["avg"] == 24
    assert (tmp_path / "server_metrics_export.json").exists()  # of /metrics, which it asks for beside its requests

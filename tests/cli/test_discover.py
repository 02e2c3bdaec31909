"""`sae-posttrain discover language` end to end, in one process and in two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import WIDTH, qwen3, word_tokenizer, write_saes

from sae_posttrain import FeatureSet
from sae_posttrain.cli import main

TEXTS = {
    "en": ["the cat sees a house", "a house sings", "the small cat", "cat the a house sings small sees"],
    "zh": ["猫 看见 房子", "小 房子 唱歌 猫", "唱歌 唱歌"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its SAEs in the Qwen-Scope layout, and texts."""
    folder = tmp_path_factory.mktemp("place")
    tokenizer = word_tokenizer((text for texts in TEXTS.values() for text in texts), "<pad>")
    tokenizer.save_pretrained(folder / "model")
    qwen3(len(tokenizer), num_hidden_layers=2).save_pretrained(folder / "model")
    write_saes(folder / "SAE-tiny-L0_4", range(2), d_sae=40, width=WIDTH)
    (folder / "en.txt").write_text("\n".join(TEXTS["en"]), encoding="utf-8")
    (folder / "zh.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS["zh"]), encoding="utf-8")
    return folder


def arguments(place: Path, output: Path, **changes: str) -> list[str]:
    settings = {"--model": place / "model", "--sae": place / "SAE-tiny-L0_4", "--output": output}
    texts = ["--texts", f"en={place / 'en.txt'}", f"zh={place / 'zh.jsonl'}"]
    flat = [str(part) for pair in {**settings, **changes}.items() for part in pair]
    return ["discover", "language", *flat, *texts, "--layers", "0", "1"]


def test_it_prints_the_table_and_writes_the_file(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(place, tmp_path / "features.safetensors")) == 0
    features = FeatureSet.load(tmp_path / "features.safetensors")
    assert features.languages == ("en", "zh")
    assert [layer.layer for layer in features.layers] == [0, 1]
    assert features.summary() in capsys.readouterr().out


def test_two_processes_find_what_one_finds(place: Path, tmp_path: Path) -> None:
    assert main(arguments(place, tmp_path / "one.safetensors")) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launch += ["--tee", "3", "--log-dir", str(tmp_path / "logs")]
    command = [*launch, "-m", "sae_posttrain", *arguments(place, tmp_path / "two.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "ACCELERATE_USE_CPU": "true"})
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "logs").rglob("1/stdout.log")), "there was no second process"
    assert done.stdout.count("Wrote") == 1
    one, two = FeatureSet.load(tmp_path / "one.safetensors"), FeatureSet.load(tmp_path / "two.safetensors")
    for ours, theirs in zip(two.layers, one.layers, strict=True):
        assert ours.ids == theirs.ids
        assert torch.allclose(ours.score, theirs.score, atol=1e-6)
        for code in TEXTS:
            assert torch.allclose(ours.baselines[code], theirs.baselines[code], atol=1e-5)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--texts", "zh"], "expected CODE=SOURCE"),
        (["--texts", "en=nowhere.txt", "zh=nowhere.txt"], "nowhere.txt"),
        (["--texts", "klingon=a.txt"], "klingon"),
        (["--layers", "9"], "no SAE for layer 9"),
        (["--sae", "nowhere/at-all"], "nowhere/at-all"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(
    extra: list[str], message: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(place, tmp_path / "features.safetensors"), *extra]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "features.safetensors").exists()


@pytest.mark.parametrize("kind", ["language", "repetition"])
def test_a_place_that_cannot_be_written_is_refused_before_texts_are_read(
    kind: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*args: object, **settings: object) -> None:
        pytest.fail("read for nothing")

    monkeypatch.setattr("sae_posttrain.cli.discover.load_texts", load)
    (tmp_path / "file").write_text("")
    texts = f"en={place / 'en.txt'}" if kind == "language" else str(place / "en.txt")
    command = [
        "discover",
        kind,
        "--model",
        str(place / "model"),
        "--sae",
        str(place / "SAE-tiny-L0_4"),
        "--layers",
        "0",
    ]
    assert main([*command, "--texts", texts, "--output", str(tmp_path / "file" / "features.safetensors")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_a_misspelt_option_stops(place: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main([*arguments(place, tmp_path / "features.safetensors"), "--tpo", "3"])


def test_loops_are_kept_so_that_a_control_samples_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Random and greedy, this model loops after most prompts."""
    words = [f"w{number}" for number in range(59)]
    tokenizer = word_tokenizer(words, "<pad>")
    tokenizer.save_pretrained(tmp_path / "model")
    qwen3(len(tokenizer), seed=1, initializer_range=0.02, num_hidden_layers=2).save_pretrained(tmp_path / "model")
    sae = write_saes(tmp_path / "SAE-tiny-L0_4", range(2), d_sae=40, width=WIDTH)
    (tmp_path / "prompts.txt").write_text("".join(f"w{n} w{n + 1}\n" for n in range(0, 40, 3)), encoding="utf-8")
    common = ["discover", "repetition", "--model", str(tmp_path / "model"), "--sae", str(sae), "--layers", "0", "1"]
    common += ["--min-length", "12", "--top", "3"]
    sampled = ["--prompts", str(tmp_path / "prompts.txt"), "--loops", "3", "--max-new-tokens", "24"]
    assert main([*common, *sampled, "--output", str(tmp_path / "a.safetensors")]) == 0
    kept = tmp_path / "a.loops.jsonl"
    assert f"Give --texts {kept} to discover again without sampling" in capsys.readouterr().out
    rows = [json.loads(line) for line in kept.read_text("utf-8").splitlines()]
    assert [row["looped"] for row in rows][:4] == [True] * 3 + [False] * (len(rows) > 3)
    assert all(row["text"] == tokenizer.decode(row["ids"]) for row in rows)

    def sample(*args: object, **settings: object) -> None:
        pytest.fail("sampled again")

    monkeypatch.setattr("sae_posttrain.discovery.sample_loops", sample)
    assert main([*common, "--texts", str(kept), "--output", str(tmp_path / "b.safetensors")]) == 0
    a, b = FeatureSet.load(tmp_path / "a.safetensors"), FeatureSet.load(tmp_path / "b.safetensors")
    assert [layer.ids for layer in a.layers] == [layer.ids for layer in b.layers]
    assert a.provenance.texts_sha256 == b.provenance.texts_sha256
    random = ["--texts", str(kept), "--select", "random", "--output", str(tmp_path / "r.safetensors")]
    assert main([*common, *random]) == 0
    drawn = FeatureSet.load(tmp_path / "r.safetensors")
    assert not set(drawn.layers[0].ids) & set(a.layers[0].ids)

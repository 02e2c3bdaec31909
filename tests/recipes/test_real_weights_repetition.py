"""The recipe on pretrained models: prompts, texts and the calibration of the repetition experiment."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import ModuleType

from real_weights_world import read_jsonl

from sae_posttrain import FeatureSet
from sae_posttrain.feature_set import Provenance
from sae_posttrain.metrics import Share
from sae_posttrain.metrics.loops import find_loop
from sae_posttrain.steering import Calibration
from sae_posttrain.steering.curve import Point


def test_a_calibrations_curve_becomes_rows(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    plain = Point((), 0.0, Share(1, 10, 0.0, 0.4), temperature=0.7)
    steered = Point((22,), 4.0, Share(5, 10, 0.2, 0.8), 8.0, 4.0, top=1, temperature=0.7)
    curve = Calibration(FeatureSet((), Provenance("m", 1, 1, "s", {}, "", "")), plain, (steered,), 0.9, 2.0)
    (tmp_path / "c.json").write_text(json.dumps(curve.to_dict()), encoding="utf-8")
    where = ["--curve", str(tmp_path / "c.json"), "--model", "tiny", "--results", str(tmp_path / "r.csv")]
    for _ in range(2):  # the second time its rows are replaced
        scripts["calibration_rows"].main(where)
    with (tmp_path / "r.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["setting"], row["metric"], float(row["value"])) for row in rows] == [
        ("unsteered", "alpha 0, temperature 0.7", "responses that loop", 0.1),
        ("steered, layers 22, 1 per layer", "alpha 4, temperature 0.7", "responses that loop", 0.5),
        ("steered, layers 22, 1 per layer", "alpha 4, temperature 0.7", "perplexity before the loop, ratio", 2.0),
    ]


def test_prompts_are_distinct_and_in_the_order_of_the_seed(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        scripts["prompts"].main(["--output", str(tmp_path / name), "--count", "50", "--seed", seed])
    a, b, c = ([row["prompt"] for row in read_jsonl(tmp_path / name)] for name in "abc")
    assert a == b != c
    assert len(set(a)) == 50


def test_a_share_of_the_english_texts_loops(scripts: dict[str, ModuleType], corpus: Path, tmp_path: Path) -> None:
    scripts["looping_texts"].main(["--corpus", str(corpus), "--output", str(tmp_path / "l.jsonl"), "--share", "0.5"])
    texts = [row["text"] for row in read_jsonl(tmp_path / "l.jsonl")]
    assert len(texts) == 60
    assert 15 < sum(find_loop(text) is not None for text in texts) < 45

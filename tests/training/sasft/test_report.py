"""The report reads what a real run leaves: its own state file, its log, and nothing that was made up for a test."""

from __future__ import annotations

from pathlib import Path

from sae_posttrain.report import read_runs
from sae_posttrain.report.curves import training_curves

from .routes import with_trainer
from .world import World


def test_a_real_run_is_read_with_its_languages_and_curves(world: World, tmp_path: Path) -> None:
    trainer = world.run(with_trainer, output_dir=str(tmp_path), max_steps=2, logging_steps=1)
    trainer.train()
    trainer.save_state()
    trainer.save_metrics("eval", {"eval_loss": 1.5})
    (run,) = read_runs([tmp_path])
    assert run.suppress == ["zh"]
    assert run.results == {"eval_loss": 1.5}
    names = [curve.name for curve in training_curves([run], {run.name: 0})]
    assert names[:2] == ["loss", "sasft_loss"]
    logged = {name for row in run.log for name in row if name.startswith("sasft_")}
    assert {name for name in names if name.startswith("sasft_")} <= logged
    assert any(name.startswith("sasft_pre_activation_") for name in names)

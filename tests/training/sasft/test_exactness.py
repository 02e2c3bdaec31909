"""Every way to train on one process: what SASFT adds to the gradient is the hand-written auxiliary term."""

import pytest
import torch
from torch import nn

from .exactness import TERMS, WEIGHT, Row, errors_of_the_addition, moved, record, reference, relative_error
from .exactness_table import TABLES, read_table
from .routes import with_callback, with_trainer
from .rows import ROWS
from .world import Route, World

both_routes = pytest.mark.parametrize("route", [with_callback, with_trainer])


def marks(row: Row) -> list[pytest.MarkDecorator]:
    broken = pytest.mark.xfail(bool(row.broken), reason=row.broken, raises=AttributeError, strict=True)
    return [broken, pytest.mark.slow] if row.slow else [broken]


cells = pytest.mark.parametrize("name", [pytest.param(name, marks=marks(row)) for name, row in ROWS.items()])


@cells
@both_routes
def test_what_is_added_is_the_auxiliary_gradient(route: Route, name: str, world: World) -> None:
    row = ROWS[name]
    torch._dynamo.reset()
    if words := row.refused.get(route.__name__):
        with pytest.raises((ValueError, RuntimeError), match=words):
            moved(world, route, row, WEIGHT)
        record(name, route, f"refused: {words}")
    else:
        errors = errors_of_the_addition(world, route, row)
        for term, error in errors.items():
            record(name, route, error, term)
        assert max(errors.values()) <= 1e-5, errors


@pytest.mark.parametrize("pure", [False, True], ids=["bf16 autocast", "bf16 pure"])
@both_routes
def test_bfloat16_stays_within_its_own_error(
    route: Route, pure: bool, world: World, request: pytest.FixtureRequest
) -> None:
    """The whole gradient with SASFT strays from the exact one no further than plain SFT's own does."""

    def half(world: World) -> nn.Module:
        return world.make_model().to(torch.bfloat16) if pure else world.make_model()

    def error(weight: float, token_weight: float) -> float:
        ours = moved(world, route, Row({"bf16": not pure}, half), weight, token_weight or None)
        ours = {name: value.float() for name, value in ours.items()}
        return relative_error(ours, reference(world, Row(), weight, token_weight))

    plain, errors = error(0.0, 0.0), {term: error(*weights) for term, weights in TERMS.items()}
    for term, found in errors.items():
        record(f"bf16 {'pure' if pure else 'autocast'}", route, f"{found:.1e}, plain SFT itself {plain:.1e}", term)
    assert 1e-4 < plain < 0.2, "this was not a run in bfloat16"
    assert max(errors.values()) < 1.5 * plain, errors


@pytest.mark.parametrize("name", TABLES)
def test_the_documented_table_has_every_row(name: str) -> None:
    """What `--write-exactness` left in docs/exactness.md: no row missing, none left over, each in bounds."""
    cells = read_table(name)
    assert list(dict.fromkeys(row for row, _ in cells)) == list(TABLES[name].rows)
    for cell in cells.values():
        assert cell.startswith(("refused: ", "bit-identical")) or "plain SFT itself" in cell or float(cell) <= 1e-5

"""The tests in fresh environments: `make test-versions` for the lowest and the newest supported versions.

`nox -s swift` runs what needs ms-swift, which is not installed with anything else.
"""

import re
from pathlib import Path

import nox
from packaging.requirements import Requirement
from packaging.version import Version

nox.options.default_venv_backend = "venv"
nox.options.error_on_external_run = True
nox.options.sessions = ["lowest", "without_trl", "newest"]

ROOT = Path(__file__).parent
NEWEST = ROOT / "constraints.txt"
# Older transformers and datasets allow no newer ones of these, so with the lowest versions pip chooses them.
BOUNDED_FROM_ABOVE = {"dill", "fsspec", "hf-xet", "huggingface-hub", "multiprocess", "pandas", "tokenizers"}


# The tests that need no TRL: the callback on a plain Trainer, and what lies below training.
WITHOUT_TRL = (
    *(f"tests/training/sasft/test_{name}.py" for name in ("plain_exactness", "plain_trainer", "reading", "identifier")),
    *(f"tests/{name}" for name in ("test_residual.py", "test_feature_set.py", "test_token_counts.py", "discovery")),
    *(f"tests/{name}" for name in ("inspection", "steering/test_generate.py", "sampling", "data")),
)


def floors(extras: bool = True) -> dict[str, str]:
    """The lowest versions that pyproject.toml allows, by package; torch is as tested, other builds are too large.

    Args:
        extras: whether all the extras are installed too, some of which need newer versions.
    """
    project = nox.project.load_toml(ROOT / "pyproject.toml")["project"]
    optional = project["optional-dependencies"] if extras else {"peft": project["optional-dependencies"]["peft"]}
    lines = [*project["dependencies"], *(line for extra in optional.values() for line in extra)]
    lowest: dict[str, str] = {}
    for one in map(Requirement, lines):
        for bound in (bound for bound in one.specifier if bound.operator == ">="):
            name = normal(one.name)
            lowest[name] = max(bound.version, lowest.get(name, "0"), key=Version)
    return {name: version for name, version in lowest.items() if name != "torch"}


def lowest_constraints(extras: bool = True) -> list[str]:
    """The tested versions, with every floor of pyproject.toml in place of the newest."""
    replaced = floors(extras)
    pins = (line.strip() for line in NEWEST.read_text(encoding="utf-8").splitlines())
    kept = [pin for pin in pins if pin and normal(pin.split("==")[0]) not in {*replaced, *BOUNDED_FROM_ABOVE}]
    return [*kept, *(f"{name}=={version}" for name, version in replaced.items())]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@nox.session
def lowest(session: nox.Session) -> None:
    """Every dependency as old as pyproject.toml allows."""
    constraints = Path(session.create_tmp()) / "constraints.txt"
    constraints.write_text("\n".join(lowest_constraints()), encoding="utf-8")
    run_tests(session, constraints)


@nox.session
def without_trl(session: nox.Session) -> None:
    """The lowest versions without TRL, as other frameworks pin them: the callback, and what lies below training."""
    constraints = Path(session.create_tmp()) / "constraints.txt"
    constraints.write_text("\n".join(lowest_constraints(extras=False)), encoding="utf-8")
    pinned = ("--constraint", str(constraints))
    session.install(*pinned, "hatchling", "editables", "pytest", "pytest-timeout", "scipy", "py3langid")
    session.install(*pinned, "--no-build-isolation", "--editable", ".[peft]")
    session.run("python", "-m", "pytest", *(session.posargs or WITHOUT_TRL))
    if not session.posargs:  # the rows that `make test` leaves out, too
        session.run("python", "-m", "pytest", "-m", "slow", "tests/training/sasft/test_plain_exactness.py")


@nox.session
def newest(session: nox.Session) -> None:
    """Every dependency as in constraints.txt."""
    run_tests(session, NEWEST)


def run_tests(session: nox.Session, constraints: Path) -> None:
    # The build backend is installed first, so that its version is pinned too.
    session.install("--constraint", str(constraints), "hatchling", "editables")
    session.install("--constraint", str(constraints), "--no-build-isolation", "--editable", ".[dev]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def swift(session: nox.Session) -> None:
    """SASFT inside ms-swift, by its own command line."""
    run_framework(session, "ms-swift")


def run_framework(session: nox.Session, name: str) -> None:
    """Install a framework with its pins beside this package, and run `tests/integrations/test_NAME.py`."""
    constraints = ROOT / "tests" / "integrations" / "constraints" / f"{name}.txt"
    pinned = ("--constraint", str(constraints))
    session.install(*pinned, name, "hatchling", "editables", "pytest", "pytest-timeout")
    session.install(*pinned, "--no-build-isolation", "--editable", ".")
    session.run("python", "-m", "pytest", f"tests/integrations/test_{session.name}.py", *session.posargs)


@nox.session
def vllm(session: nox.Session) -> None:
    """Sampling, steering and steered rollouts with vLLM's CPU build, in process and as a server on this machine."""
    pins = str(ROOT / "tests" / "integrations" / "constraints" / "vllm.txt")
    session.install("--constraint", pins, "torch")
    # Without torchvision, torchaudio and torchcodec, whose builds want torch's CUDA build.
    session.install("--no-deps", "--requirement", pins)
    session.install("--no-deps", "--no-build-isolation", "--editable", ".")
    sampling = ("tests/sampling/test_vllm.py", "tests/sampling/test_vllm_commands.py")
    steering = ("tests/steering/test_vllm_engine.py", "tests/training/rollouts/test_in_vllm_engine.py")
    # vLLM loads its plugins once in a process, and each of these files steers with features of its own.
    for tests in [session.posargs] if session.posargs else [(one,) for one in (*sampling, *steering)]:
        session.run("python", "-m", "pytest", "-m", "", *tests)


@nox.session
def axolotl(session: nox.Session) -> None:
    """SASFT inside Axolotl, by its own command line."""
    run_pinned_framework(session)


@nox.session
def llamafactory(session: nox.Session) -> None:
    """SASFT inside LLaMA-Factory, by a command that stands in for its own."""
    run_pinned_framework(session)


def run_pinned_framework(session: nox.Session) -> None:
    """As `run_framework`, with exactly the packages of the list: these frameworks also ask for some that need a GPU."""
    pins = str(ROOT / "tests" / "integrations" / "constraints" / f"{session.name}.txt")
    session.install("--constraint", pins, "torch")  # with what its build needs
    session.install("--no-deps", "--requirement", pins)
    session.install("--no-deps", "--no-build-isolation", "--editable", ".")
    if session.name == "llamafactory":
        # It imports torchaudio, whose compiled part wants torch's CUDA build; without that part torchaudio loads too.
        script = "import pathlib, sysconfig; [p.unlink() for p in pathlib.Path(sysconfig.get_path('purelib'))"
        session.run("python", "-c", f"{script}.glob('torchaudio/lib/*.so')]")
    session.run("python", "-m", "pytest", f"tests/integrations/test_{session.name}.py", *session.posargs)

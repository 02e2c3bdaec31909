"""Derives the lists of `sae_posttrain/metrics/han.py` from OpenCC's tables and Python's codecs, and compares.

    pip install opencc-python-reimplemented && python tests/han_forms.py

OpenCC's tables are Apache-2.0. The package itself needs neither them nor this script.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from sae_posttrain.metrics import han


def table(name: str) -> dict[str, list[str]]:
    """Of a character, the forms that it has elsewhere."""
    spec = find_spec("opencc")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install opencc-python-reimplemented")
    path = Path(spec.origin).parent / "dictionary" / f"{name}.txt"
    lines = (line.rstrip("\n").partition("\t") for line in path.read_text(encoding="utf-8").splitlines())
    return {char: forms.split() for char, _, forms in lines if len(char) == 1}


def written_in(encoding: str) -> set[str]:
    return {char for char in map(chr, range(0x4E00, 0xA000)) if char.encode(encoding, "ignore")}


def reformed() -> set[str]:
    """What Japan simplified in its own way: no Chinese encoding, and no Chinese table, holds it."""
    japanese = {form for forms in table("JPVariants").values() for form in forms}
    chinese = {form for name in ("HKVariants", "TWVariants") for forms in table(name).values() for form in forms}
    chinese |= {form for forms in table("STCharacters").values() for form in forms} | set(table("TSCharacters"))
    return japanese - chinese - written_in("gb2312") - written_in("big5")


def simplified_beside() -> set[str]:
    """Simplified forms in common use that JIS X 0213 holds by coincidence, but not cp932, nor Big5."""
    simplified = {char for char, forms in table("STCharacters").items() if char not in forms}
    common = {char for char in simplified & written_in("gb2312") if char.encode("gb2312")[0] < 0xD8}
    return (common & written_in("shift_jis_2004")) - written_in("cp932")


def main() -> None:
    differing = reformed() ^ set(han._REFORMED)
    print(f"reformed in Japan: {len(reformed())}, differing from the list: {''.join(sorted(differing)) or 'none'}")
    beside = simplified_beside()
    print(f"simplified, and in JIS X 0213 by coincidence: {len(beside)}")
    print(f"  not listed, since Japanese does write them: {''.join(sorted(beside - han.chinese_forms()))}")
    missing = set(han._CHINESE_BESIDE) - beside
    print(f"  listed by hand: {''.join(sorted(missing))}")


if __name__ == "__main__":
    main()

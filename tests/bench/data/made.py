"""Data of one's own, made on the spot."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

CSV = ("text,label,id", "good,pos,1", '"bad, very",neg,2', "NA,pos,3")


def picture(path: Path, value: int = 0, size: tuple[int, int] = (4, 4), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * 3).save(path)


def pictures(root: Path, classes: str = "ab", count: int = 5) -> Path:
    for place, name in enumerate(classes):
        for k in range(count):
            picture(root / name / f"{k}.png", 10 * place + k)
    return root


def table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path

"""Write the example project: ``python -m examples.captioning.make_data [--out FOLDER]``. The output is deterministic."""

import argparse
import base64
import json
from pathlib import Path
from random import Random

from examples.tiny.make_data import encode_png
from examples.tiny.questions import describe_scene
from examples.tiny.scenes import draw_scene, make_scene

TITLES = ("Opening hours", "Floor plan", "Team", "Sales by quarter")
SHAPES_PER_DOCUMENT = 6
_DATA = Path(__file__).resolve().parent / "data"


def list_elements(document: int) -> list[tuple[str, str]]:
    """Return the elements of a document as pairs of id and type: shapes with a heading between them, and a photo at the end."""
    slug = TITLES[document].lower().replace(" ", "-")
    kinds = ["ShapeElement"] * SHAPES_PER_DOCUMENT
    kinds[2] = "GroupElement"
    kinds.insert(3, "TextElement")
    kinds.append("ImageElement")
    return [(f"{slug}-{number}", kind) for number, kind in enumerate(kinds, start=1)]


def write_project(folder: Path) -> dict[str, str]:
    """Write ``jsons``, ``json_detail`` and ``raw`` into ``folder``. Return the true captions by image name."""
    captions: dict[str, str] = {}
    for name in ("jsons", "json_detail", "raw"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for document, title in enumerate(TITLES):
        elements = list_elements(document)
        slug = elements[0][0].rpartition("-")[0]
        listed = [{"id": name, "type": kind} for name, kind in elements]
        _write_json(folder / "jsons" / f"{slug}.json", {"title": title, "elements": listed})
        for name, kind in elements:
            detail = {"id": name, "type": kind}
            if kind == "TextElement":
                detail["text"] = title
            else:
                scene = make_scene(Random(f"held-out captioning {name}"))
                detail |= {"image": f"{name}.png", "context": f"Slide: {title}."}
                (folder / "raw" / f"{name}.png").write_bytes(base64.b64decode(encode_png(draw_scene(scene))))
                if kind != "ImageElement":
                    captions[f"{name}.png"] = describe_scene(scene)
            _write_json(folder / "json_detail" / f"{name}.json", detail)
    return captions


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Write the project."""
    parser = argparse.ArgumentParser(description="Write the example project of captioning.")
    parser.add_argument("--out", type=Path, default=_DATA)
    write_project(parser.parse_args().out)


if __name__ == "__main__":
    main()

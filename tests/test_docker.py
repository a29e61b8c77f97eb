"""The Dockerfile is well-formed and copies only what exists and all that is needed.

No container engine runs here: what building and running shows is not shown by these tests.
"""

import re
from pathlib import Path

from tests.conftest import ROOT
from tests.test_layout import modules, owner

LINES = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text()).splitlines()
STEPS = [line.split(maxsplit=1) for line in LINES if line.strip() and line[0] != "#"]


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in STEPS if name == instruction]


def copied() -> list[Path]:
    sources = [word for rest in arguments("COPY") for word in rest.split()[:-1]]
    found = [sorted(ROOT.glob(source.rstrip("/"))) for source in sources]
    assert all(found), [s for s, f in zip(sources, found, strict=True) if not f]
    return [path for paths in found for path in paths]


def test_every_instruction_is_one() -> None:
    known = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "EXPOSE",
             "HEALTHCHECK", "ENTRYPOINT", "CMD"}  # fmt: skip
    assert {name for name, _ in STEPS} <= known


def test_both_bases_can_be_chosen() -> None:
    names = {rest.split("=")[0] for rest in arguments("ARG")}
    assert {"PYTORCH_TAG", "BASE"} <= names
    torch = re.search(r"^torch==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert torch and f"PYTORCH_TAG={torch[1]}-" in "\n".join(LINES)


def test_without_a_choice_the_base_of_a_cpu_gets_no_cuda_and_a_gpus_own_build_stays() -> None:
    (index,) = (rest for rest in arguments("ARG") if rest.startswith("TORCH_INDEX_URL"))
    assert index.endswith("/whl/cpu")
    (installed,) = (rest for rest in arguments("RUN") if "torch.txt" in rest)
    assert re.search(r'python -c "import torch" 2>/dev/null\s+\|\| pip install', installed)
    assert "PIP_BREAK_SYSTEM_PACKAGES=1" in " ".join(arguments("ENV"))  # Ubuntu's Python, PEP 668
    for name, build in (("yml", "cpu"), ("scale.yml", "cpu"), ("gpu.yml", "cu130")):
        text = (ROOT / f"docker-compose.{name}").read_text()
        assert re.search(rf"TORCH_INDEX_URL: \$\{{TORCH_INDEX_URL:-\S+/whl/{build}\}}$", text, re.M)
    tag = re.search(r"PYTORCH_TAG=\S+-cuda([\d.]+)-", "\n".join(LINES))
    assert tag and f"cu{tag[1].replace('.', '')}" == "cu130"


def test_what_is_copied_exists_and_is_all_the_service_needs() -> None:
    whole = {path.relative_to(ROOT).parts[0] for path in copied()}
    assert {module.relative_to(ROOT).parts[0] for module in modules()} <= whole
    assert {"requirements.txt", "model_config.json", "gunicorn.conf.py", "CHANGELOG.md"} <= whole
    assert owner(ROOT / "app.py") == "app"


def test_the_build_context_holds_what_is_copied() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines()
               if line.startswith("!")]  # fmt: skip
    for path in copied():
        name = path.relative_to(ROOT)
        assert any(name.match(pattern) for pattern in allowed), name


def test_it_does_not_run_as_root() -> None:
    assert arguments("USER") == ["10001"]  # a number: Kubernetes cannot look names up
    assert [name for name, _ in STEPS].index("USER") < [name for name, _ in STEPS].index("CMD")

"""Whatever of others is brought along has its notice, with the licence that it comes with."""

import re
from importlib.metadata import distribution
from pathlib import Path

from embedders.weights import BUNDLES, here
from tests.conftest import ROOT

NOTICES = (ROOT / "THIRD_PARTY_NOTICES.md").read_text()
VENDOR = ROOT / "web" / "static" / "vendor"
PINNED = [
    line.partition("==")[0].split("[")[0]
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def rows(text: str) -> dict[str, list[str]]:
    """Return the cells of every table's rows by what their first cell names."""
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {name: row for row in cells for name in re.findall(r"[\w.-]+", row[0])}


def test_every_vendored_folder_has_its_licence_and_a_notice_of_its_version() -> None:
    folders = {folder.name: folder for folder in VENDOR.iterdir() if folder.is_dir()}
    noticed, told = rows(NOTICES), rows((VENDOR / "README.md").read_text())
    assert len(folders) >= 3
    for name, folder in folders.items():
        assert (folder / "LICENSE").is_file(), f"{name} has no LICENSE"
        assert name in noticed, f"THIRD_PARTY_NOTICES.md does not name {name}"
        _, work, _, licence = noticed[name]
        _, package, said, _ = told[name]
        assert package in work and licence.startswith(said), name
    shown = re.findall(r"^\| `([\w-]+)` \|", NOTICES, re.MULTILINE)
    assert set(shown) == set(folders), "a notice is of a folder that is gone"


def test_every_package_that_carries_a_model_is_noticed_with_the_licence_of_its_card() -> None:
    for model, bundle in BUNDLES.items():
        package = bundle.package.replace("_", "-")
        assert package in PINNED
        assert f"`{package}` {distribution(package).version}" in NOTICES and model in NOTICES
        folder = here(model)
        assert folder is not None
        (licence,) = re.findall(r"^license: (.+)", (folder / "README.md").read_text(), re.MULTILINE)
        assert f"`license: {licence}`" in NOTICES


def test_every_package_that_is_installed_has_its_licence_named() -> None:
    table = rows(NOTICES[NOTICES.index("## Python packages") :])
    assert set(table) - {"package"} >= set(PINNED)
    for name in PINNED:
        licence = distribution(name).metadata.get("License-Expression")
        if licence and " " not in licence:
            assert licence.removesuffix("-only") in table[name][1], (name, licence)


def test_who_gets_the_service_gets_the_notices() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^COPY .*\bTHIRD_PARTY_NOTICES\.md\b", dockerfile, re.MULTILINE)
    assert "THIRD_PARTY_NOTICES.md" in (ROOT / "pyproject.toml").read_text()  # the wheel
    for link in re.findall(r"`(web/[\w/.]+)`", NOTICES):
        assert Path(ROOT, link).exists(), link

"""Settings are read strictly, by every documented name, in one order of precedence."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from config import Config, ConfigError, ModelSpec, load_config
from config.__main__ import example
from config.fields import names_of
from tests.conftest import ROOT, write_models

NOTHING = Path("/nonexistent/.env")


def load(**environ: str) -> Config:
    return load_config(environ, NOTHING)


def test_it_works_with_nothing_set() -> None:
    config = load()
    assert (config.port, config.device, config.normalize) == (8001, "auto", True)


ALIASES = [
    (name, field)
    for field, info in Config.model_fields.items()
    for name in names_of(info)
]  # fmt: skip


def test_every_name_of_the_documented_services_is_read() -> None:
    names = {name for name, _ in ALIASES}
    assert names >= {
        "EMBEDDING_MODEL", "EMBEDDING_MODEL_NAME", "SUPPORTED_MODELS", "DEVICE", "EMBEDDING_DEVICE",
        "BATCH_SIZE", "MAX_BATCH_SIZE", "EMBEDDING_MAX_BATCH_SIZE", "MAX_SEQ_LENGTH",
        "EMBEDDING_NORMALIZE", "EMBEDDING_MODEL_CACHE_DIR", "HOST", "EMBEDDING_HOST", "PORT",
        "EMBEDDING_PORT", "EMBEDDINGS_PORT", "HF_TOKEN", "HF_API_TOKEN", "LOG_LEVEL",
        "CORS_ORIGINS", "MAX_WORKERS",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["PORT", "EMBEDDING_PORT", "EMBEDDINGS_PORT"])
def test_each_alias_sets_the_same_setting(name: str) -> None:
    assert load(**{name: "9001"}).port == 9001


def test_the_more_specific_name_wins_whatever_the_order() -> None:
    assert load(PORT="1", EMBEDDING_PORT="2").port == 2
    assert load(EMBEDDING_PORT="2", PORT="1").port == 2


def test_the_environment_wins_over_dotenv_by_whatever_alias(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text('EMBEDDING_DEVICE=cuda\nLOG_LEVEL="debug"  # loud\n')
    config = load_config({"DEVICE": "cpu"}, dotenv)
    assert (config.device, config.log_level) == ("cpu", "DEBUG")


def test_an_empty_value_counts_as_unset() -> None:
    assert load(PORT="", DEVICE=" ").port == 8001


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PORT", "http", "1 to 65535"),
        ("PORT", "70000", "1 to 65535"),
        ("DEVICE", "gpu", "cpu, cuda, cuda:N, mps or auto"),
        ("EMBEDDING_NORMALIZE", "maybe", "true or false"),
        ("BATCH_SIZE", "0", "1 to 65536"),
        ("BATCH_SIZE", "3.5", "1 to 65536"),
        ("MAX_WORKERS", "-1", "1 to 256"),
        ("LOG_LEVEL", "LOUD", "DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("TRUNCATE", "middle", "right"),
        ("EMBEDDING_DTYPE", "int3", "float32"),
    ],
)
def test_it_refuses_to_start_with_the_name_the_value_and_what_is_allowed(
    name: str, value: str, allowed: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load(**{name: value})
    assert name in str(refused.value)
    assert value in str(refused.value)
    assert allowed in str(refused.value)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        load(PORT="x", DEVICE="y")
    assert len(refused.value.problems) == 2


def test_a_secret_is_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("hf_very_secret\n")
    config = load(HF_TOKEN_FILE=str(file))
    assert config.hf_token is not None
    assert config.hf_token.get_secret_value() == "hf_very_secret"
    assert "hf_very_secret" not in repr(config)
    with pytest.raises(ConfigError, match="HF_TOKEN_FILE"):
        load(HF_TOKEN_FILE=str(tmp_path / "missing"))


def test_a_name_that_is_nearly_right_is_pointed_out(caplog: pytest.LogCaptureFixture) -> None:
    load(EMBEDDING_PROT="1")
    assert "did you mean EMBEDDING_PORT" in caplog.text


def catalogue(tmp_path: Path, **environ: str) -> tuple[list[str], str]:
    models = {
        "small": {"type": "sentence_transformer", "model_name": "org/small", "normalize": False},
        "big": {"type": "openai", "model_name": "text-big"},
    }
    file = write_models(tmp_path / "models.json", models, default="big")
    lines = tmp_path / "models.txt"
    lines.write_text("# more\norg/small\norg/third # yes\n\n")
    given = {"MODEL_CONFIG": str(file), "SUPPORTED_MODELS_FILE": str(lines), **environ}
    specs, default = load(**given).catalogue()
    return [spec.id for spec in specs], default


def test_both_model_files_make_the_catalogue(tmp_path: Path) -> None:
    assert catalogue(tmp_path) == (["small", "big", "org/third"], "big")


def test_supported_models_is_the_whole_list_and_keeps_descriptions(tmp_path: Path) -> None:
    ids, default = catalogue(tmp_path, SUPPORTED_MODELS='"org/other, org/small"')
    assert (ids, default) == (["org/other", "small"], "org/other")


def test_embedding_model_is_added_and_becomes_the_default(tmp_path: Path) -> None:
    ids, default = catalogue(tmp_path, EMBEDDING_MODEL="org/new")
    assert (ids[-1], default) == ("org/new", "org/new")
    assert catalogue(tmp_path, EMBEDDING_MODEL_NAME="org/small")[1] == "small"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "must be"),
        ('{"models": {"a": {}}}', "models.a.model_name"),
        ('{"models": {"a": {"model_name": "x", "typo": 1}}}', "models.a.typo"),
        ('{"models": {"a": {"model_name": "x", "type": "magic"}}}', "models.a.type"),
        ('{"models": {"a": 3}}', "models.a"),
        ('{"default": "b", "models": {"a": {"model_name": "x"}}}', "one of a"),
        ('{"models": {}}', "no model is configured"),
    ],
)
def test_a_model_file_that_cannot_be_read_stops_the_start(
    tmp_path: Path, content: str, complaint: str
) -> None:
    file = tmp_path / "models.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=complaint):
        load(MODEL_CONFIG=str(file), SUPPORTED_MODELS_FILE="none").catalogue()


def test_one_model_ships_and_the_example_has_four_more_beside_it() -> None:
    shipped, example = (
        json.loads((ROOT / name).read_text())
        for name in ("model_config.json", "model_config.example.json")
    )
    assert shipped["default"] == example["default"] == "minilm"
    assert list(shipped["models"]) == ["minilm"]
    assert example["models"] == {
        **shipped["models"],
        "bge-small": {
            "type": "sentence_transformer", "model_name": "BAAI/bge-small-en", "normalize": True,
        },
        "openai-small": {"type": "openai", "model_name": "text-embedding-3-small"},
        "cohere-english": {"type": "cohere", "model_name": "embed-english-v3.0"},
        "huggingface": {
            "type": "huggingface", "model_name": "sentence-transformers/all-mpnet-base-v2",
        },
    }  # fmt: skip


def test_every_setting_is_documented_once_with_its_default() -> None:
    text = (ROOT / ".env.example").read_text()
    assert text == example(), "run: python -m config > .env.example"
    for name, _ in ALIASES:
        places = rf"^#{name}=|Also: (?:[A-Z_]+, )*{name}\b"
        assert len(re.findall(places, text, re.MULTILINE)) == 1, name


@pytest.mark.parametrize("text", ["/a,/b", '["/a", "/b"]', "'/a', '/b'", " [/a , /b, ] "])
def test_a_list_may_be_in_brackets_and_quotes(text: str) -> None:
    assert load(MODEL_DIRS=text).model_dirs == ("/a", "/b")


NUMBERS = [
    name
    for name, field in Config.model_fields.items()
    if int in (field.annotation, *get_args(field.annotation))
]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_nothing_can_keep_is_refused(name: str) -> None:
    """It would be stored, and then no reply could show it."""
    given = names_of(Config.model_fields[name])[0]
    with pytest.raises(ConfigError) as refused:
        load(**{given: str(10**20)})
    assert given in str(refused.value)


@pytest.mark.parametrize("name", ["dimensions", "max_batch_size", "max_seq_length"])
def test_a_number_of_a_model_is_refused_likewise(name: str) -> None:
    with pytest.raises(ValidationError, match="must be at most"):
        ModelSpec.model_validate({"id": "m", "model_name": "m", name: 10**20})

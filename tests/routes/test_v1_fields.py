"""Every known field of `/v1/embeddings` is honoured, or it is a 400 that names it."""

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from config import Config
from factory import create_app
from schemas.embed import EmbedBody
from schemas.openai import OpenAIBody, options_of
from tests.conftest import write_models

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
FOX = "The quick brown fox jumps over the lazy dog."
START, END = "alpha " * 300, "omega " * 300
QUERY = "Find what answers: "
ANYTHING = (None, True, 3, 1.5, "me", ["a"], {"a": {"b": None}})

# Values of each field that ask for what is done anyway.
PASS: dict[str, tuple[Any, ...]] = {
    "model": ("minilm",),
    "model_id": ("minilm",),
    "encoding_format": ("float",),
    "output_dtype": ("float", "float32"),
    "embedding_type": ("float", ["float"]),
    "encoding_type": ("float",),
    "embed_dtype": ("float32",),
    "endianness": ("native", "little", "big"),
    "dimensions": (384,),
    "output_dimension": (384,),
    "normalize": (True,),
    "normalized": (True,),
    "use_activation": (True,),
    "prompt": ("",),
    "prompt_name": ("query", "document"),
    "input_type": ("query", "document", "passage", "search_query", "search_document"),
    "task": ("retrieval.query", "retrieval.passage", "text-matching", "separation"),
    "truncate": (True, False, "right", "left", "error", "auto", "NONE", "START", "END", "none"),
    "truncation": (True, False),
    "truncation_side": ("left", "right"),
    "truncate_prompt_tokens": (-1, 64, 255, 256, 512),
    "add_special_tokens": (True,),
    "late_chunking": (False,),
    "return_multivector": (False,),
    "outputs": (["dense"],),
    "top_n": (None,),
    "min_weight": (None,),
    "sparse_format": (None,),
    "messages": (None,),
    "continue_final_message": (True, False),
    "padding": (True, False, "longest", "do_not_pad"),
    "mm_processor_kwargs": ({},),
    "modality": ("text",),
    "embedding_types": (["float"],),
    "truncation_direction": ("left", "Right"),
    "task_type": (None,),
    "instruction": (None,),
    "chat_template": (None,),
    "user": ANYTHING,
    "request_id": ANYTHING,
    "priority": (0, 3, -3, "bulk", "interactive"),
    "cache_salt": ANYTHING,
    "drop_params": ANYTHING,
}
# Values that cannot be honoured, or that are no value of the field at all.
REFUSED: dict[str, tuple[Any, ...]] = {
    "model": ("gpt-none", 5, ["minilm"]),
    "model_id": (5, ["minilm"]),
    "priority": ("high", 1.5, True, ["bulk"]),
    "encoding_format": ("bytes_all", "int8", 1, ["float"]),
    "output_dtype": ("bfloat16", "base64", 8),
    "embedding_type": ("int8", ["float", "base64"], ["int8"], [], True),
    "encoding_type": ("int8", [], 1),
    "embed_dtype": ("bfloat16", "fp8_e4m3", 32),
    "endianness": ("middle", 1),
    "dimensions": (0, -1, 385, 1.5, "16", True),
    "output_dimension": (0, -1, 385, 1.5, "16", True),
    "normalize": ("yes", 1, {}),
    "normalized": ("yes", 0, []),
    "use_activation": ("true", 1, 0.0),
    "prompt": (5, ["a"], True, "x" * 10_001),
    "prompt_name": ("nonsense", 5),
    "input_type": ("nonsense", 5),
    "task": ("nonsense", ["retrieval.query"]),
    "truncate": ("middle", 1, ["END"]),
    "truncation": ("yes", 1),
    "truncation_side": ("middle", 1, True),
    "truncate_prompt_tokens": (0, -2, "256", 1.5, True),
    "add_special_tokens": (False, "true", {}, 1),
    "late_chunking": ("false", 0),
    "return_multivector": (True, [], 0.0),
    "outputs": (["sparse"], ["dense", "sparse"], "dense", []),
    "top_n": (3, 0),
    "min_weight": (0.5,),
    "sparse_format": ("terms",),
    "messages": ([], [{"role": "user", "content": "my secret words"}], "hello"),
    "continue_final_message": (1, "no"),
    "padding": ("max_length", 8),
    "mm_processor_kwargs": ({"num_crops": 4}, [], 0),
    "modality": ("image", "audio", 1),
    "embedding_types": (["int8"], ["float", "int8"], [], "float"),
    "truncation_direction": ("middle", True),
    "task_type": ("RETRIEVAL_QUERY", 1),
    "instruction": ("Represent this: ", ""),
    "chat_template": ("{{ messages }}", 1),
}


def each(table: dict[str, tuple[Any, ...]]) -> pytest.MarkDecorator:
    rows = [(field, value) for field, values in table.items() for value in values]
    return pytest.mark.parametrize(("field", "value"), rows, ids=str)


def embeddings(client: FlaskClient, text: object = FOX, **fields: object) -> list[Any]:
    """Return what stands for each vector in a reply that must be had."""
    reply = client.post("/v1/embeddings", json={"input": text, **fields})
    assert reply.status_code == 200, reply.text
    return [row["embedding"] for row in reply.json["data"]]


def refusal(client: FlaskClient, text: object = FOX, **fields: object) -> dict[str, Any]:
    """Return the error of a reply that must be a 400."""
    reply = client.post("/v1/embeddings", json={"input": text, **fields})
    assert reply.status_code == 400, reply.text
    error: dict[str, Any] = reply.json["error"]
    return error


@pytest.fixture(scope="module")
def fox(real_client: FlaskClient) -> np.ndarray:
    """The unit vector of FOX."""
    return np.array(embeddings(real_client)[0], np.float32)


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """A client of a service whose model has a prompt for queries and one of another name."""
    folder = tmp_path_factory.mktemp("prompted")
    entry = {"type": "sentence_transformer", "dtype": "float32",
             "model_name": MINILM,
             "prompts": {"query": QUERY, "clustering": "Group: ", "document": ""}}  # fmt: skip
    file = write_models(folder / "models.json", {"minilm": entry})
    app = create_app(
        Config(model_config_file=file, device="cpu", store_dir=folder / "store"), wait=True
    )
    yield app.test_client()


def test_every_field_has_values_that_pass_and_values_that_do_not() -> None:
    fields = OpenAIBody.model_fields.keys() - {"input"}
    assert PASS.keys() == fields
    assert REFUSED.keys() == {field for field in fields if PASS[field] is not ANYTHING}


@each(PASS)
def test_what_is_done_anyway_passes_and_changes_nothing(
    real_client: FlaskClient, fox: np.ndarray, field: str, value: object
) -> None:
    np.testing.assert_allclose(embeddings(real_client, **{field: value})[0], fox, atol=1e-6)


@pytest.mark.parametrize("field", PASS)
def test_null_is_the_same_as_leaving_out(
    real_client: FlaskClient, fox: np.ndarray, field: str
) -> None:
    np.testing.assert_allclose(embeddings(real_client, **{field: None})[0], fox, atol=1e-6)


@each(REFUSED)
def test_what_cannot_be_honoured_is_a_400_that_names_the_field(
    real_client: FlaskClient, field: str, value: object
) -> None:
    error = refusal(real_client, **{field: value})
    assert error["param"] == field
    assert field in error["message"]
    assert 20 < len(error["message"]) < 400
    assert "secret" not in error["message"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"dimensions": 16, "output_dimension": 32}, "dimensions"),
        ({"normalize": True, "normalized": False}, "normalize"),
        ({"normalized": False, "use_activation": True}, "normalized"),
        ({"input_type": "document", "task": "retrieval.query"}, "input_type"),
        ({"prompt_name": "query", "input_type": "passage"}, "prompt_name"),
        ({"prompt": "about: ", "prompt_name": "query"}, "prompt"),
        ({"encoding_format": "float", "embedding_type": "base64"}, "encoding_format"),
        ({"output_dtype": "int8", "embedding_type": "float"}, "output_dtype"),
        ({"output_dtype": "ubinary", "embedding_type": "binary"}, "output_dtype"),
        ({"embedding_type": "ubinary", "encoding_type": "binary"}, "embedding_type"),
        ({"output_dtype": "int8", "embed_dtype": "float16"}, "output_dtype"),
        ({"embedding_type": "binary", "embed_dtype": "float32"}, "embedding_type"),
        ({"output_dtype": "float16", "embedding_types": ["float"]}, "output_dtype"),
        ({"output_dtype": "int8", "normalized": False}, "output_dtype"),
        ({"truncate": "NONE", "truncation": True}, "truncate"),
        ({"truncate": "left", "truncation": False}, "truncate"),
        ({"truncate": "right", "truncation_side": "left"}, "truncate"),
        ({"truncation_side": "right", "truncation_direction": "Left"}, "truncation_side"),
        ({"late_chunking": True, "return_multivector": True}, "late_chunking"),
        ({"truncation": False, "truncate_prompt_tokens": -1}, "truncation"),
    ],
    ids=str,
)
def test_fields_that_contradict_each_other_are_a_400_that_names_them(
    real_client: FlaskClient, fields: dict[str, object], named: str
) -> None:
    error = refusal(real_client, **fields)
    assert error["param"] == named
    assert all(field in error["message"] for field in fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"dimensions": 16, "output_dimension": 16},
        {"normalize": True, "normalized": True, "use_activation": True},
        {"prompt_name": "query", "input_type": "search_query", "task": "retrieval.query"},
        {"encoding_format": "float", "embedding_type": "float", "output_dtype": "float"},
        {"truncate": "START", "truncation": True, "truncation_side": "left"},
    ],
    ids=str,
)
def test_fields_that_say_the_same_pass_together(
    real_client: FlaskClient, fields: dict[str, object]
) -> None:
    assert len(embeddings(real_client, **fields)) == 1


@pytest.mark.parametrize("field", ["dimensions", "output_dimension"])
def test_a_shorter_vector_is_the_start_at_length_one(
    real_client: FlaskClient, fox: np.ndarray, field: str
) -> None:
    cut = embeddings(real_client, **{field: 16})[0]
    np.testing.assert_allclose(cut, fox[:16] / np.linalg.norm(fox[:16]), atol=1e-6)


@pytest.mark.parametrize("field", ["normalize", "normalized", "use_activation"])
def test_a_shorter_vector_is_left_at_its_length_if_asked(
    real_client: FlaskClient, fox: np.ndarray, field: str
) -> None:
    cut, whole = (
        embeddings(real_client, dimensions=count, **{field: False})[0] for count in (16, 384)
    )
    np.testing.assert_allclose(cut, whole[:16], atol=1e-6)
    assert np.linalg.norm(cut) != pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("fields", "put_before"),
    [
        ({"prompt_name": "query"}, QUERY),
        ({"input_type": "query"}, QUERY),
        ({"input_type": "search_query"}, QUERY),
        ({"task": "retrieval.query"}, QUERY),
        ({"task": "clustering"}, "Group: "),
        ({"task": "classification"}, ""),
        ({"input_type": "passage"}, ""),
        ({"task": "retrieval.passage"}, ""),
        ({"prompt": "about: "}, "about: "),
        ({"prompt": "about: ", "input_type": "query"}, "about: "),
    ],
    ids=str,
)
def test_a_role_puts_its_prompt_before_the_text(
    prompted: FlaskClient, real_client: FlaskClient, fields: dict[str, object], put_before: str
) -> None:
    written = embeddings(real_client, put_before + FOX)[0]
    np.testing.assert_allclose(embeddings(prompted, **fields)[0], written, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"truncate": "right"}, START),
        ({"truncate": "END"}, START),
        ({"truncate": "end"}, START),
        ({"truncate": True}, START),
        ({"truncation": True}, START),
        ({"truncation_side": "right"}, START),
        ({"truncate_prompt_tokens": -1}, START),
        ({"truncate_prompt_tokens": 256}, START),
        ({"truncate": "left"}, END),
        ({"truncate": "START"}, END),
        ({"truncate": "Start"}, END),
        ({"truncation_side": "left"}, END),
        ({"truncate": True, "truncation_side": "left"}, END),
        ({"truncation": True, "truncation_side": "left"}, END),
        ({"truncate_prompt_tokens": -1, "truncation_side": "left"}, END),
    ],
    ids=str,
)
def test_of_a_long_text_the_part_asked_for_is_kept(
    real_client: FlaskClient, fields: dict[str, object], kept: str
) -> None:
    got = embeddings(real_client, START + END, **fields)[0]
    np.testing.assert_allclose(got, embeddings(real_client, kept)[0], atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [{"truncate": "error"}, {"truncate": "NONE"}, {"truncate": "none"}, {"truncate": False},
     {"truncation": False}, {"truncation": False, "truncation_side": "left"}],
    ids=str,
)  # fmt: skip
def test_a_long_text_is_refused_if_asked(
    real_client: FlaskClient, fields: dict[str, object]
) -> None:
    assert refusal(real_client, START, **fields)["code"] == "input_too_long"


@pytest.mark.parametrize(
    ("fields", "default", "done"),
    [
        ({}, "error", "error"),
        ({}, "left", "left"),
        ({"truncation_side": "left"}, "error", "error"),
        ({"truncation_side": "left"}, "right", "left"),
        ({"truncation": True}, "left", "left"),
        ({"truncation": True}, "error", "auto"),
        ({"truncate": True, "truncation_side": "left"}, "error", "left"),
        ({"truncate_prompt_tokens": -1}, "error", "auto"),
        ({"truncate": False}, "right", "error"),
    ],
    ids=str,
)
def test_what_is_not_said_of_long_texts_is_as_the_service_does(
    fields: dict[str, Any], default: Any, done: str
) -> None:
    assert options_of(OpenAIBody(input="x", **fields), default).truncate == done


def quantised(vector: np.ndarray, dtype: str) -> list[int]:
    """Write a unit vector in a type, number by number."""
    if dtype in ("int8", "uint8"):
        return [round(127 * float(x)) + 128 * (dtype == "uint8") for x in vector]
    bits = "".join("01"[bool(x > 0)] for x in vector)
    values = [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]
    return [value - 128 * (dtype == "binary") for value in values]


each_dtype = pytest.mark.parametrize("dtype", ["int8", "uint8", "binary", "ubinary"])


@each_dtype
def test_a_type_of_numbers_is_json_integers(
    real_client: FlaskClient, fox: np.ndarray, dtype: str
) -> None:
    got = embeddings(real_client, output_dtype=dtype)[0]
    assert all(type(number) is int for number in got)
    assert got == quantised(fox, dtype)


@each_dtype
def test_voyages_client_reads_the_bytes_as_the_type_it_asked_for(
    real_client: FlaskClient, dtype: str
) -> None:
    """Voyage's client always asks for base64, and for null where its caller said nothing."""
    rest = {"model": "minilm", "input_type": None, "truncation": True, "output_dimension": 64}
    texts = [FOX, "another"]
    raw = embeddings(real_client, texts, **rest, output_dtype=dtype, encoding_format="base64")
    numbers = np.int8 if dtype in ("int8", "binary") else np.uint8
    for packed, vector in zip(raw, embeddings(real_client, texts, **rest), strict=True):
        read = np.frombuffer(base64.b64decode(packed), numbers)
        assert read.tolist() == quantised(np.array(vector, np.float32), dtype)


def test_int8_keeps_the_direction(real_client: FlaskClient, fox: np.ndarray) -> None:
    small = np.array(embeddings(real_client, output_dtype="int8")[0], np.float32)
    assert small @ fox / np.linalg.norm(small) > 0.999


def test_a_last_byte_that_is_not_full_ends_with_zeros(
    real_client: FlaskClient, fox: np.ndarray
) -> None:
    last = embeddings(real_client, output_dtype="ubinary", dimensions=12)[0][-1]
    assert last == quantised(np.append(fox[8:12], [0.0] * 4), "ubinary")[0]


@pytest.mark.parametrize("dtype", ["binary", "ubinary"])
def test_bits_need_no_length_of_one(real_client: FlaskClient, fox: np.ndarray, dtype: str) -> None:
    got = embeddings(real_client, output_dtype=dtype, normalized=False)[0]
    assert got == quantised(fox, dtype)


@pytest.mark.parametrize(
    "fields",
    [
        {"encoding_format": "base64"},
        {"embedding_type": "base64"},
        {"embedding_type": ["base64"]},
        {"encoding_type": "base64"},
        {"encoding_format": "base64", "embedding_type": "base64", "output_dtype": "float"},
        {"encoding_format": "base64", "embed_dtype": "float32", "endianness": "little"},
        {"encoding_format": "base64", "endianness": "native"},
    ],
    ids=str,
)
def test_base64_is_little_endian_float32(
    real_client: FlaskClient, fox: np.ndarray, fields: dict[str, object]
) -> None:
    raw = base64.b64decode(embeddings(real_client, **fields)[0])
    np.testing.assert_allclose(np.frombuffer(raw, "<f4"), fox, atol=1e-7)


@pytest.mark.parametrize("kind", ["binary", "ubinary"])
@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("name", ["embedding_type", "encoding_type"])
def test_jinas_type_of_bits_is_voyages(
    real_client: FlaskClient, fox: np.ndarray, kind: str, as_list: bool, name: str
) -> None:
    """LlamaIndex has another name for Jina's field."""
    got = embeddings(real_client, **{name: [kind] if as_list else kind})[0]
    assert got == quantised(fox, kind)


@pytest.mark.parametrize(
    ("sent", "texts"),
    [
        ({"text": FOX}, [FOX]),
        ([{"text": FOX}], [FOX]),
        ([{"text": FOX}, "b", {"text": "c"}], [FOX, "b", "c"]),
        (["b", {"text": FOX}], ["b", FOX]),
    ],
    ids=str,
)
def test_an_item_with_a_text_is_that_text(
    real_client: FlaskClient, sent: object, texts: list[str]
) -> None:
    got = embeddings(real_client, sent)
    np.testing.assert_allclose(got, embeddings(real_client, texts), atol=1e-6)


@pytest.mark.parametrize(
    "sent",
    [{"image": "aGk="}, [{"image": "secret"}], ["a", {"text": "b", "image": "secret"}]],
    ids=str,
)
def test_an_image_is_a_400_that_names_the_input(real_client: FlaskClient, sent: object) -> None:
    error = refusal(real_client, sent)
    assert (error["param"], error["code"]) == ("input", "bad_request")
    assert "image" in error["message"]
    assert "secret" not in error["message"]


@pytest.mark.parametrize("item", [{}, {"text": 5}, {"text": "a", "title": "b"}, {"txt": "a"}])
def test_any_other_item_is_named_by_its_place(real_client: FlaskClient, item: object) -> None:
    reply = real_client.post("/v1/embeddings", json={"input": ["a", item]})
    assert reply.status_code == 400
    assert reply.json["error"]["param"] == "input.1"


@pytest.mark.parametrize(
    ("model", "told"),
    [({}, "minilm"), ({"model": None}, "minilm"), ({"model": MINILM}, MINILM)],
)
def test_the_reply_names_the_model_that_served(
    real_client: FlaskClient, model: dict[str, object], told: str
) -> None:
    reply = real_client.post("/v1/embeddings", json={"input": FOX, **model})
    assert reply.json["model"] == told


@pytest.mark.parametrize("field", sorted(PASS.keys() - EmbedBody.model_fields.keys()))
def test_the_native_route_takes_none_of_these_names(real_client: FlaskClient, field: str) -> None:
    reply = real_client.post("/embed", json={"texts": FOX, field: None})
    assert reply.status_code == 422


def test_only_prompts_with_a_text_are_listed(
    real_client: FlaskClient, prompted: FlaskClient
) -> None:
    for client, prompts in [(real_client, []), (prompted, ["clustering", "query"])]:
        assert client.get("/v1/models").json["data"][0]["prompts"] == prompts
        assert client.get("/v1/models/minilm").json["prompts"] == prompts

"""Each provider's wire format, and what the three share when all goes well."""

import cohere
import httpx
import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient, close_session

from embedders.base import Prompt
from embedders.remote import spread
from errors import BadRequest, ProviderError
from tests.providers.server import DIMENSION, KEY, vector


def run(embedder, texts, prompt=None, truncate="right"):
    return embedder.encode(embedder.prepare(texts, prompt or Prompt(), truncate))


@pytest.mark.parametrize(
    ("kind", "salt"), [("openai", ""), ("cohere", "search_document"), ("huggingface", "")]
)
def test_it_gives_the_providers_vectors_in_order(remote, provider, kind, salt):
    texts = [f"text {i}" for i in range(200)]
    got = run(remote(kind), texts)
    np.testing.assert_array_equal(got.vectors, [vector(t, salt) for t in texts])
    assert got.vectors.dtype == np.float32
    assert len(got.tokens) == 200
    if kind != "huggingface":
        assert sum(got.tokens) == 400
    sizes = [len(b.get("texts") or b.get("input") or b.get("inputs")) for _, _, b in provider.seen]
    limit = {"openai": 2048, "cohere": 96, "huggingface": 32}[kind]
    assert sum(sizes) == 200
    assert max(sizes) <= limit
    assert len(sizes) == -(-200 // limit)


def test_it_splits_by_tokens_that_no_text_can_exceed(remote, provider):
    run(remote(), ["x" * 7000] * 100)
    for _, _, body in provider.seen:
        assert sum(map(len, body["input"])) <= 300_000
    assert len(provider.seen) == 3


def test_parts_go_out_together_up_to_the_cap(remote, provider):
    import threading
    import time

    now, most, lock, full = 0, 0, threading.Lock(), threading.Event()

    def slow(handler, body):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            if now == 3:
                full.set()
        assert full.wait(60)
        time.sleep(0.1)  # time for one too many
        with lock:
            now -= 1
        handler.act("good", body)

    provider.always = slow
    run(remote("cohere", settings={"provider_parallel": 3}), ["t"] * 96 * 7)
    assert most == 3


def test_openai_sends_the_key_the_dimensions_and_token_ids(remote, provider):
    embedder = remote(dimensions=4)
    assert run(embedder, [[1, 2], [3]]).vectors.shape == (2, 4)
    path, headers, body = provider.seen[0]
    assert path == "/v1/embeddings"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body["input"] == [[1, 2], [3]]
    assert body["dimensions"] == 4
    with pytest.raises(BadRequest) as caught:
        embedder.prepare([[1], [-1]], Prompt(), "right")
    assert caught.value.index == 1


def test_azure_is_a_deployment_with_a_version_and_its_own_header(remote, provider):
    deployment = f"{provider.url}/openai/deployments/d"
    run(remote(base_url=deployment, api_version="2024-10-21", provider=None), ["t"])
    path, headers, _ = provider.seen[0]
    assert path == "/openai/deployments/d/embeddings?api-version=2024-10-21"
    assert headers["api-key"] == KEY
    assert "Authorization" not in headers


def test_a_key_never_goes_to_a_host_whose_entry_does_not_name_it(remote, provider):
    run(remote(provider=None), ["t"])
    assert KEY not in str(provider.seen)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        (None, "search_document"), ("query", "search_query"), ("search_query", "search_query"),
        ("retrieval.query", "search_query"), ("classification", "classification"),
    ],
)  # fmt: skip
def test_cohere_gets_the_role_and_the_side_that_is_cut(remote, provider, name, role):
    embedder = remote("cohere")
    run(embedder, ["t"], embedder.prompt(name, None), "left")
    _, _, body = provider.seen[0]
    assert body["input_type"] == role
    assert body["truncate"] == "START"
    with pytest.raises(BadRequest, match="token ids are not taken"):
        embedder.prepare([[1]], Prompt(), "right")


def test_texts_of_two_roles_never_share_a_part(remote, provider):
    embedder = remote("cohere")
    items = [embedder.prepare(["t"], embedder.prompt(n, None), "right")[0] for n in ("query", None)]
    embedder.encode(items)
    roles = {body["input_type"]: body["texts"] for _, _, body in provider.seen}
    assert roles == {"search_query": ["t"], "search_document": ["t"]}


def test_a_text_of_several_lines_goes_out_as_it_is(remote, provider):
    text = "\nfirst\n\nsecond\n"
    for kind, field in (("openai", "input"), ("cohere", "texts"), ("huggingface", "inputs")):
        run(remote(kind), [text])
        assert provider.seen[-1][2][field] == [text]


def test_cohere_falls_back_to_v1_and_remembers(remote, provider):
    embedder = remote("cohere")
    provider.script.append((404, {}))
    run(embedder, ["t"])
    run(embedder, ["t"])
    assert [path for path, _, _ in provider.seen] == ["/v2/embed", "/v1/embed", "/v1/embed"]


def test_huggingface_refuses_vectors_of_tokens(remote, provider):
    provider.script.append(lambda h, b: h.reply(b"[[[1,2],[3,4]]]"))
    with pytest.raises(ProviderError, match="a vector for each token") as caught:
        run(remote("huggingface"), ["t"])
    assert caught.value.permanent
    provider.script.append(lambda h, b: h.reply(b"[[[1,2]]]"))
    assert run(remote("huggingface"), ["t"]).vectors.tolist() == [[1, 2]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pydantic, in cohere
def test_the_official_clients_understand_the_fake_provider(provider):
    with openai.OpenAI(base_url=f"{provider.url}/v1", api_key="k") as client:
        reply = client.embeddings.create(model="m", input=["a", "b"])
    np.testing.assert_allclose(reply.data[1].embedding, vector("b"))
    inference = InferenceClient(provider.url, token="k")
    np.testing.assert_allclose(inference.feature_extraction("a")[0], vector("a"))
    close_session()
    for make in (cohere.Client, cohere.ClientV2):
        with httpx.Client() as http:
            client = make("k", base_url=provider.url, httpx_client=http)
            reply = client.embed(
                texts=["a"], model="m", input_type="search_query", embedding_types=["float"]
            )
        np.testing.assert_allclose(reply.embeddings.float_[0], vector("a", "search_query"))


def test_a_fingerprint_names_the_space(remote, provider):
    one, same = remote().facts.fingerprint, remote().facts.fingerprint
    others = [
        remote(model_name="n"),
        remote(dimensions=4),
        remote("cohere"),
        remote(base_url=f"{provider.url}/team-b/v1"),  # a gateway's other team, the same name
        remote(api_version="2024-10-21"),
    ]
    assert one == same
    assert len({one, *(other.facts.fingerprint for other in others)}) == 6


def test_the_dimension_is_learned_from_the_first_reply(remote):
    embedder = remote()
    assert embedder.facts.dimension == 0
    run(embedder, ["t"])
    assert embedder.facts.dimension == DIMENSION


@pytest.mark.parametrize("total", [0, 1, 7, 1000])
def test_tokens_are_shared_out_exactly(total):
    assert sum(spread(total, [1, 5, 3])) == total
    assert all(share >= 0 for share in spread(total, [1, 5, 3]))


@pytest.mark.parametrize("truncate", ["error", "left"])
def test_a_server_of_which_it_is_not_known_is_not_asked_to_refuse_what_is_too_long(
    remote, truncate
):
    """OpenAI's API has no field for it. OpenAI and Azure refuse such an input by themselves."""
    with pytest.raises(BadRequest, match=f"cannot be asked for '{truncate}'"):
        remote("openai").prepare(["t"], Prompt(), truncate)
    known = remote("openai", api_version="2024-10-21"), remote("cohere"), remote("huggingface")
    assert all(embedder.prepare(["t"], Prompt(), truncate) for embedder in known)

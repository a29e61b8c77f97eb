"""The Try tab: vectors, scores and sparse terms, by the models that give them, and as code."""

import io
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.dialects.clients.answers import PYTHON as CLIENTS
from tests.web.conftest import MODELS, Guarded, Seen, ask, serving, sign_in, watched
from tests.web.test_console import held, shown_code

KINDS = {
    **MODELS,
    "ranks": {"type": "fake", "model_name": "tests/ranks+score", "max_seq_length": 40},
    "terms": {"type": "fake", "model_name": "tests/terms+sparse"},
}
TEXTS = ['it\'s a "test" of $HOME', "naïve ☕\\n", "true"]
LONG = "word " * 100


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service with a model of each kind."""
    with serving(tmp_path_factory.mktemp("kinds"), KINDS) as base:
        yield base


@pytest.fixture
def kinds(browser: Browser, there: str) -> Iterator[Page]:
    """Its console."""
    with watched(browser, Seen(there)) as page:
        page.locator("#try-model option").first.wait_for(state="attached")
        yield page


def mode(page: Page, name: str) -> None:
    page.locator("#try-modes").get_by_text(name, exact=True).click()


def models(page: Page) -> list[str]:
    return page.locator("#try-model option").all_inner_texts()


# Runs programs as they were copied, in one process, since their imports take seconds.
RUN = """
import json, sys
answers = {}
for name, (code, result) in json.load(sys.stdin).items():
    there = {}
    try:
        exec(code, there)
        answers[name] = [there[result], None]
    except Exception as exc:
        answers[name] = [None, f"{type(exc).__name__}: {exc} {getattr(exc, 'response', '')}"]
print(json.dumps(answers))
"""
Answer = tuple[Any, str | None]  # what a program found, or why it failed


def answers_of(programs: dict[str, tuple[str, str]], **env: str) -> dict[str, Answer]:
    """Run programs, each with the name of its result, by the names they are given under.

    A name ends in the language, and what curl gives is its JSON.
    """
    answers: dict[str, Answer] = {}
    for python, ours in ((CLIENTS, True), (Path(sys.executable), False)):
        mine = {name: given for name, given in programs.items()
                if name.endswith("ollama") == ours and not name.endswith("curl")}  # fmt: skip
        if mine:
            assert python.exists(), "the client is not installed: run tests/setup.sh"
            run = subprocess.run(
                [python, "-c", RUN], input=json.dumps(mine), capture_output=True, text=True,
                timeout=240, env={**os.environ, **env},
            )  # fmt: skip
            assert run.returncode == 0, run.stderr
            answers |= json.loads(run.stdout)
    for name, (code, _) in programs.items():
        if name.endswith("curl"):
            reply = subprocess.run(
                ["sh", "-c", code], capture_output=True, timeout=60, env={**os.environ, **env}
            )
            answers[name] = json.loads(reply.stdout), None
    return answers


def copied(page: Page, result: str, prefix: str = "") -> dict[str, tuple[str, str]]:
    """Copy the code of every language that is shown."""
    return {prefix + name: (shown_code(page, name), result) for name in languages(page)}


def languages(page: Page) -> list[str]:
    return page.locator("#try-code .choice").all_inner_texts()


def test_each_mode_offers_the_models_that_it_can_use(kinds: Page) -> None:
    assert models(kinds) == ["first", "second"]
    mode(kinds, "Rerank")
    assert models(kinds) == ["ranks"]
    expect(kinds.get_by_label("Query")).to_be_visible()
    expect(kinds.get_by_label("Dimensions")).to_be_hidden()
    mode(kinds, "Sparse terms")
    assert models(kinds) == ["terms"]
    expect(kinds.get_by_label("Query")).to_be_hidden()
    mode(kinds, "Embed")
    expect(kinds.get_by_label("Dimensions")).to_be_visible()


def test_a_mode_chosen_while_the_models_are_still_to_come_stays(page: Page) -> None:
    with held(page, "**/models") as release:
        page.reload()
        mode(page, "Rerank")
        with page.expect_response("**/models"):
            release()
    page.wait_for_load_state("networkidle")
    expect(page.locator("#try-result")).to_contain_text("No loaded model gives scores")
    expect(page.get_by_role("radio", name="Rerank")).to_be_checked()


@pytest.mark.parametrize(("name", "says"), [("Rerank", "scores"), ("Sparse terms", "sparse terms")])
def test_without_a_model_it_says_what_to_configure(page: Page, name: str, says: str) -> None:
    mode(page, name)
    expect(page.locator("#try-result")).to_contain_text(f"No loaded model gives {says}")
    expect(page.locator("#try-result pre")).to_contain_text('"model_name"')
    expect(page.locator("#try-form [type=submit]")).to_be_disabled()
    expect(page.locator("#try-code")).to_be_hidden()
    mode(page, "Embed")
    expect(page.locator("#try-form [type=submit]")).to_be_enabled()


def test_a_mode_has_an_address(kinds: Page, there: str) -> None:
    kinds.goto(f"{there}/#/try?mode=rerank")
    expect(kinds.get_by_label("Query")).to_be_visible()
    mode(kinds, "Sparse terms")
    expect(kinds.get_by_label("Query")).to_be_hidden()
    assert kinds.url.endswith("#/try?mode=sparse")
    kinds.go_back()
    expect(kinds.get_by_label("Query")).to_be_visible()
    kinds.reload()
    expect(kinds.get_by_label("Query")).to_be_visible()


def test_documents_are_ranked_and_the_best_comes_first(kinds: Page, there: str) -> None:
    texts = ["a cat", "the red fox runs", "red"]
    mode(kinds, "Rerank")
    kinds.get_by_label("Query").fill("red fox")
    kinds.get_by_label("Documents").fill("\n".join(texts))
    kinds.get_by_role("button", name="Rank").click()
    rows = kinds.locator(".ranks li")
    expect(rows).to_have_count(3)
    body = {"model": "ranks", "query": "red fox", "documents": texts}
    for at, row in enumerate(ask(there, "POST", "/rerank", body)["results"]):
        expect(rows.nth(at).locator(".number")).to_have_text(str(row["index"] + 1))
        expect(rows.nth(at).locator(".text")).to_have_text(texts[row["index"]])
        expect(rows.nth(at).locator(".score")).to_have_text(f"{row['relevance_score']:.3f}")
    widths = [float(bar.evaluate("b => b.style.getPropertyValue('--share')"))
              for bar in rows.locator(".share").all()]  # fmt: skip
    assert widths == sorted(widths, reverse=True) and widths[0] > 0.9 > 0.1 > widths[2]
    expect(rows.first.locator(".text")).to_have_text("the red fox runs")
    kinds.get_by_label("Query").fill("")
    kinds.get_by_role("button", name="Rank").click()
    expect(kinds.locator("#try-error")).to_have_text("Write a query.")


def test_sparse_terms_are_words_with_their_weights(kinds: Page, there: str) -> None:
    mode(kinds, "Sparse terms")
    kinds.get_by_label("Texts", exact=True).fill("red fox\nblue fox")
    kinds.get_by_role("button", name="Get terms").click()
    rows = kinds.locator(".sparse > li")
    expect(rows).to_have_count(2)
    body = {"model": "terms", "texts": ["red fox", "blue fox"], "outputs": ["sparse"],
            "sparse_format": "terms"}  # fmt: skip
    for row, terms in zip(rows.all(), ask(there, "POST", "/embed", body)["sparse"], strict=True):
        ordered = sorted(terms.items(), key=lambda pair: -pair[1])
        shown = [text.split() for text in row.locator(".term").all_inner_texts()]
        assert shown == [[term, f"{weight:.2f}"] for term, weight in ordered]
    expect(rows.first.locator(".shared")).to_have_count(1)  # "fox" is in both
    many = " ".join(f"w{i}" for i in range(16))
    kinds.get_by_label("Texts", exact=True).fill(f"{many}\n{many} more")
    kinds.get_by_role("button", name="Get terms").click()
    expect(kinds.locator(".sparse .note")).to_have_text(["Cut: 16 of its 17 tokens count."])


def test_which_texts_were_cut_is_told(page: Page) -> None:
    page.get_by_label("Texts", exact=True).fill(f"short\n{LONG}\nalso short\n{LONG}two")
    page.get_by_role("button", name="Embed").click()
    expect(page.locator("#try-result > div > .note")).to_contain_text("and cut: texts 2, 4.")
    rows = page.locator(".vector")
    expect(rows.nth(1).locator(".note")).to_have_text("Cut: 16 of its 100 tokens count.")
    expect(rows.nth(3).locator(".note")).to_have_text("Cut: 16 of its 101 tokens count.")
    expect(rows.nth(0).locator(".note")).to_have_count(0)


def test_which_documents_were_cut_is_told(kinds: Page) -> None:
    mode(kinds, "Rerank")
    kinds.get_by_label("Query").fill("red fox")
    kinds.get_by_label("Documents").fill(f"short\n{LONG}\nred fox")
    kinds.get_by_role("button", name="Rank").click()
    expect(kinds.locator("#try-result > div > .note")).to_contain_text("and cut: document 2.")
    row = kinds.locator(".ranks li").filter(has_text="word word")
    expect(row.locator(".note")).to_have_text("Cut: its 100 tokens are too many beside the query.")
    kinds.get_by_label("Documents").fill(f"{'a ' * 37}a\n{'b ' * 38}b\n{'c ' * 38}c")
    kinds.get_by_role("button", name="Rank").click()
    note = kinds.locator("#try-result > div > .note")
    expect(note).to_contain_text("2 documents were longer than the model reads")
    expect(note).to_contain_text(": documents 2, 3.")


def test_the_tokens_of_a_text_are_shown(page: Page) -> None:
    page.get_by_label("Texts", exact=True).fill("one two three")
    page.get_by_role("button", name="Embed").click()
    page.locator(".vector summary").click()
    expect(page.locator(".token")).to_have_text(["one", "two", "three"])


def test_vectors_are_saved_as_json_and_npy(page: Page, url: str) -> None:
    texts = ["one", "two three", "four"]
    page.get_by_label("Texts", exact=True).fill("\n".join(texts))
    page.get_by_role("button", name="Embed").click()
    rows = ask(url, "POST", "/v1/embeddings", {"model": "first", "input": texts})["data"]
    wanted = np.float32([row["embedding"] for row in rows])
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as .npy").click()
    vectors = np.load(download.value.path())
    assert vectors.dtype == np.float32 and np.array_equal(vectors, wanted)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as JSON").click()
    saved = json.loads(download.value.path().read_text())
    assert (saved["model"], saved["texts"]) == ("first", texts)
    assert np.array_equal(np.float32(saved["embeddings"]), wanted)
    assert saved["fingerprint"] == ask(url, "GET", "/models/first")["fingerprint"]


@pytest.mark.parametrize(
    ("many", "rows", "dtype"), [(1, 3, "<f4"), (7, 384, "<f4")], ids=["narrow", "wide"]
)
def test_a_npy_file_is_what_numpy_writes(page: Page, many: int, rows: int, dtype: str) -> None:
    given = np.random.default_rng(0).normal(size=(many, rows)).astype(dtype)
    told = """async (rows) => {
        const { npy } = await import("/static/js/npy.js");
        return Array.from(new Uint8Array(npy(rows)));
    }"""
    written = bytes(page.evaluate(told, given.tolist()))
    expected = io.BytesIO()
    np.save(expected, given)
    assert written == expected.getvalue()


KNOWN = ["curl", "requests", "openai", "TEI", "cohere", "ollama"]


def test_each_clients_code_gives_the_vectors_that_the_page_got(kinds: Page, there: str) -> None:
    texts = [*TEXTS, LONG + "end"]
    kinds.locator("#try-model").select_option("second")
    kinds.get_by_label("Texts", exact=True).fill("\n".join(texts))
    programs, wanted = {}, {}
    for size, cut in (("4", ""), ("", "right"), ("4", "left"), ("", "error")):
        kinds.get_by_label("Dimensions").fill(size)
        kinds.get_by_label("If too long").select_option(cut)
        assert languages(kinds) == [name for name in KNOWN if (name, cut) != ("ollama", "left")]
        programs |= copied(kinds, "vectors", f"{size} {cut} ")
        body = {"model": "second", "input": texts}
        body |= ({"dimensions": int(size)} if size else {}) | ({"truncate": cut} if cut else {})
        if cut != "error":
            rows = ask(there, "POST", "/v1/embeddings", body)["data"]
            wanted[f"{size} {cut}"] = np.float32([row["embedding"] for row in rows])
    for name, (found, failed) in answers_of(programs).items():
        option, _, language = name.rpartition(" ")
        if option == " error":
            said = failed or found["error"]["message"]
            assert re.search("limit is 16|context length|422|400", said), name
            continue
        assert failed is None, (name, failed)
        vectors = [row["embedding"] for row in found["data"]] if language == "curl" else found
        np.testing.assert_allclose(np.float32(vectors), wanted[option], atol=1e-6, err_msg=name)


def test_each_clients_code_gives_the_scores_and_the_terms(kinds: Page, there: str) -> None:
    mode(kinds, "Rerank")
    kinds.get_by_label("Documents").fill("\n".join(TEXTS))
    kinds.get_by_label("Query").fill("a test")
    assert languages(kinds) == ["curl", "requests", "TEI", "cohere"]
    programs = copied(kinds, "best", "best ")
    mode(kinds, "Sparse terms")
    assert languages(kinds) == ["curl", "requests", "TEI"]
    answers = answers_of(programs | copied(kinds, "terms", "terms "))
    body = {"model": "ranks", "query": "a test", "documents": TEXTS}
    results = ask(there, "POST", "/rerank", body)["results"]
    best = [[row["index"], pytest.approx(row["relevance_score"])] for row in results]
    body = {"model": "terms", "texts": TEXTS, "outputs": ["sparse"], "sparse_format": "terms"}
    terms = [pytest.approx(row) for row in ask(there, "POST", "/embed", body)["sparse"]]
    assert [failed for _, failed in answers.values() if failed] == []
    found = {name: value for name, (value, _) in answers.items()}
    ranked = found.pop("best curl")["results"]
    assert [[row["index"], row["relevance_score"]] for row in ranked] == best
    assert found.pop("terms curl")["sparse"] == terms
    # TEI names terms by their places in the vocabulary.
    assert [{f"w{at}": w for at, w in row.items()} for row in found.pop("terms TEI")] == terms
    assert found == {"best requests": best, "best TEI": best, "best cohere": best,
                     "terms requests": terms}  # fmt: skip


def test_the_code_takes_the_key_from_the_environment(browser: Browser, guarded: Guarded) -> None:
    key = guarded.ask("POST", "/users/uma/api-key")
    with watched(browser, Seen(guarded.url)) as page:
        sign_in(page, "uma")
        page.get_by_label("Texts", exact=True).fill("one")
        page.locator("#try-model option").first.wait_for(state="attached")
        assert languages(page) == KNOWN
        programs = copied(page, "vectors")
    assert not any("eyJ" in code or key["api_key"] in code for code, _ in programs.values())
    answers = answers_of(programs, EMBEDDING_API_KEY=key["api_key"])
    for name, (found, failed) in answers.items():
        assert failed is None and len(found["data"] if name == "curl" else found) == 1, name
    refused = answers_of({"requests": programs["requests"]}, EMBEDDING_API_KEY="wrong")
    assert "401" in (refused["requests"][1] or ""), "the key counts"
    guarded.ask("DELETE", f"/users/uma/api-keys/{key['id']}")


def test_a_wrong_number_is_told_in_the_place_of_an_older_error(page: Page) -> None:
    page.get_by_label("Texts", exact=True).fill("")
    page.get_by_role("button", name="Embed").click()
    expect(page.locator("#try-error")).to_have_text("Write at least one text.")
    page.get_by_label("Texts", exact=True).fill("one")
    page.get_by_label("Dimensions").fill("0")
    page.get_by_role("button", name="Embed").click()
    expect(page.locator("#try-error")).to_contain_text("Dimensions: ")
    expect(page.locator("#try-error")).not_to_contain_text("Write at least")


@pytest.mark.parametrize("width", [1280, 360])
def test_a_heat_map_of_many_texts_fits_and_can_be_read(
    browser: Browser, url: str, width: int
) -> None:
    with watched(browser, Seen(url), viewport={"width": width, "height": 800}) as page:
        page.get_by_label("Texts", exact=True).fill("\n".join(f"text {i}" for i in range(60)))
        page.get_by_role("button", name="Embed").click()
        cell = page.locator(".heat tbody tr").nth(3).locator("td").nth(5)
        cell.hover()
        expect(page.locator(".heat .said")).to_contain_text(": text 3 / text 5")
        expect(page.locator(".heat .said")).to_contain_text(cell.inner_text())
        expect(page.locator(".closest li")).to_have_count(5)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator(".heat").evaluate("e => e.scrollWidth <= e.clientWidth")
        box = cell.bounding_box()
        assert box and box["width"] > 4, "a cell can be seen"


def test_what_came_of_one_mode_is_there_when_one_comes_back(kinds: Page) -> None:
    kinds.get_by_role("button", name="Embed").click()
    kinds.locator(".heat").wait_for()
    mode(kinds, "Rerank")
    expect(kinds.locator(".heat")).to_have_count(0)
    mode(kinds, "Embed")
    expect(kinds.locator(".heat")).to_be_visible()


def test_the_service_tells_each_model_by_what_it_gives(there: str) -> None:
    """What the page chooses by."""
    with urllib.request.urlopen(f"{there}/models", timeout=60) as reply:
        rows = {row["id"]: row["outputs"] for row in json.load(reply)["data"]}
    assert rows == {"first": ["dense"], "second": ["dense"], "away": ["dense"],
                    "ranks": ["score"], "terms": ["sparse"]}  # fmt: skip

"""Finds the question that a causal reranker answers by yes or no, and the tokens of the answers.

A language model becomes a reranker by its template. It is in the model's entry, in the chat
template of its folder, or in the published code of the family.
"""

from dataclasses import dataclass
from typing import Any

from embedders.loading import LoadedModel
from embedders.templates import Template
from errors import ModelUnavailable

# The keys of an entry's `prompts` that are no instructions.
OF_TEMPLATE = ("template", "true_token", "false_token")
ASKS = "<Instruct>: {}\n<Query>: {{query}}\n<Document>: {{document}}"
WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
RELEVANCE = (
    "You are a search relevance expert who evaluates how well documents match search queries. For "
    "each query-document pair, carefully analyze the semantic relationship between them, then "
    "provide your binary relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:"
)


@dataclass(frozen=True)
class Recipe:
    """A template, and the answers whose logits make the score: the first less the second."""

    template: Template
    true: str = "yes"
    false: str | None = "no"


def _judged(system: str, *segments: str, tail: str) -> tuple[str, ...]:
    start = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"
    return (start, *segments, f"<|im_end|>\n<|im_start|>assistant\n{tail}")


QWEN3_SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".'
)
THOUGHT = "<think>\n\n</think>\n\n"
MXBAI_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
MXBAI_ENDS = ("\n", "document: {document}", "\n", RELEVANCE)
# The published recipes, by a part of the repository's name: Qwen3-Reranker's model card, and the
# package mxbai-rerank. Each segment is tokenized apart there too.
PUBLISHED = {
    "qwen3-reranker": Recipe(
        Template(
            _judged(QWEN3_SYSTEM, ASKS.format(WEB_SEARCH), tail=THOUGHT),
            _judged(QWEN3_SYSTEM, ASKS.format("{instruction}"), tail=THOUGHT),
        )
    ),
    "mxbai-rerank": Recipe(
        Template(
            _judged(MXBAI_SYSTEM, "query: {query}", *MXBAI_ENDS, tail=""),
            _judged(
                MXBAI_SYSTEM, "instruction: {instruction}\nquery: {query}", *MXBAI_ENDS, tail=""
            ),
        ),
        true="1", false="0",
    ),
}  # fmt: skip


def recipe_of(loaded: LoadedModel) -> Recipe | None:
    """Return the recipe of the model's entry or family, or None where the folder says it all.

    Raises ModelUnavailable for a language model whose template is not known.
    """
    given = loaded.spec.prompts
    if template := given.get("template"):
        takes = "{instruction}" in template
        plain = template.replace("{instruction}", "")
        false = given.get("false_token", None if "true_token" in given else "no")
        segments = (template,) if takes else ()
        return Recipe(Template((plain,), segments), given.get("true_token", "yes"), false)
    transformer = next(iter(loaded.modules))
    if not answers_by_words(loaded.modules) or (loaded.source.folder / "modules.json").exists():
        return None
    names = (loaded.spec.model_name.lower(), loaded.spec.id.lower())
    for part, recipe in PUBLISHED.items():
        if any(part in name for name in names):
            return recipe
    if "document" in str(getattr(transformer.tokenizer, "chat_template", None) or ""):
        return None  # a chat template for pairs, which the library renders
    raise ModelUnavailable(
        f"{loaded.spec.model_name!r} is a language model whose template for pairs is not known: "
        'give it in its entry as "prompts": {"template": "... {query} ... {document} ...", '
        '"true_token": "yes", "false_token": "no"}'
    )


def answers_by_words(modules: Any) -> bool:
    """Return whether the scores are made of the logits of words."""
    return type(list(modules)[-1]).__name__ == "LogitScore"


def tell(recipe: Recipe, modules: Any) -> None:
    """Make the library's model score by the answers of a recipe. Raises ModelUnavailable."""
    if not answers_by_words(modules):
        raise ModelUnavailable("a template is for language models; this one has a head for scores")
    score, tokenizer = list(modules)[-1], next(iter(modules)).tokenizer

    def token(answer: str) -> int:
        ids: list[int] = tokenizer(answer, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ModelUnavailable(f"the answer {answer!r} is {len(ids)} tokens, not one")
        return ids[0]

    score.true_token_id = token(recipe.true)
    score.false_token_id = None if recipe.false is None else token(recipe.false)


def rendered(transformer: Any) -> Template:
    """Return the template of a folder that renders pairs by its chat template.

    It is found by rendering marks in the places of the texts; the proof at load shows whether the
    template does more than that. Raises ModelUnavailable for one that drops a text.
    """
    formatter, options = transformer.input_formatter, dict(transformer.processing_kwargs)
    given = {
        key: value
        for key, value in options.get("chat_template", {}).items()
        if key not in ("restore_suffix", "padding", "truncation", "max_length", "return_tensors")
    }
    marks = {name: f"\ue000{name}\ue001" for name in ("query", "document", "instruction")}

    def text(instruction: str | None) -> str:
        messages = [formatter.pair_to_messages((marks["query"], marks["document"]))]
        if instruction is not None:
            messages = formatter.prepend_prompt_to_messages(messages, instruction)
        found = transformer.processor.apply_chat_template(messages[0], tokenize=False, **given)
        return _with_places(str(found), marks)

    plain, prompted = text(None), text(marks["instruction"])
    return Template((plain,), (prompted,) if "{instruction}" in prompted else ())


def _with_places(text: str, marks: dict[str, str]) -> str:
    """Return a rendered text with {query} and so on where the marks are."""
    for name, mark in marks.items():
        text = text.replace(mark, f"{{{name}}}")
    return text


def instructions(prompts: dict[str, str]) -> dict[str, str]:
    """Return the prompts that a request may name."""
    return {name: text for name, text in prompts.items() if name not in OF_TEMPLATE}

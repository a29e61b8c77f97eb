"""A model's kind is told by its files; what is of no kind is refused by what it is."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedders import weights
from embedders.kinds import MEAN, MEAN_OF_HEAD, identify
from errors import ModelUnavailable

MINILM = weights.find("sentence-transformers/all-MiniLM-L6-v2")
Files = dict[str, Any]  # what a folder holds: an object or a list becomes JSON, a text stays


def write(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def net(kind: str | None, architecture: str | None = None, **more: Any) -> Files:
    """A folder of transformers' own: a config.json and nothing else."""
    given = {"model_type": kind, "architectures": [architecture] if architecture else None}
    return {"config.json": {**{k: v for k, v in given.items() if v}, **more}}


def st(*modules: str, **files: Any) -> Files:
    """A folder of sentence-transformers: modules.json, and a BERT as its Transformer."""
    listed = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind.split('.')[-1]}" if i else "", "type": kind}
        for i, kind in enumerate(OLD.get(kind, kind) for kind in modules)
    ]
    own = {f"{row['path']}/config.json": {} for row in listed if row["path"]}
    return {"modules.json": listed, **net("bert", "BertModel"), **own, **files}


BASE, TEXT = "sentence_transformers.base.modules", "sentence_transformers.sentence_transformer"
OLD = {
    "T": f"{BASE}.transformer.Transformer",
    "P": f"{TEXT}.modules.pooling.Pooling",
    "N": "sentence_transformers.models.Normalize",
    "D": "sentence_transformers.models.Dense",
}
TYPE = "config_sentence_transformers.json"
BERT = "sentence_bert_config.json"
TOKENS = {"module_input_name": "token_embeddings"}
QWEN = ("qwen3", "Qwen3ForCausalLM")
CODE = "needs code of its repository ({}), which this service does not run"
LORA = {"peft_type": "LORA", "base_model_name_or_path": "BAAI/bge-m3"}
CLIP_TEXT = {
    "text": {"method": "get_text_features", "method_output_name": "pooler_output"},
    "image": {"method": "get_image_features", "method_output_name": "pooler_output"},
}
NOMIC_CODE = {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"}
NOMIC = {"n_embd": 768, "n_layer": 12, "rotary_emb_base": 1000, "auto_map": NOMIC_CODE}


def quantized(method: str, **more: Any) -> Files:
    return net("qwen3", "Qwen3Model", quantization_config={"quant_method": method, **more})


REFUSED: dict[str, tuple[Files, str]] = {
    # formats
    "gguf folder": ({"model-Q4_K_M.gguf": "GGUF", **net("bert")}, "is GGUF"),
    "someone/bge-m3-GGUF": (net("xlm-roberta"), "is GGUF"),
    "adapter": ({"adapter_config.json": LORA}, "is an adapter (LoRA) for BAAI/bge-m3; merge"),
    "adapter on a model": ({**st("T", "P"), "adapter_config.json": LORA}, "is an adapter"),
    "adapter in 0_Transformer": (
        {
            "modules.json": [{"type": OLD["T"], "path": "0_Transformer"}],
            "0_Transformer/adapter_config.json": {"model_name": "bert"},
        },
        "is an adapter (LoRA) for bert",
    ),
    "gptq": (quantized("gptq", bits=4), "is quantized (gptq)"),
    "awq": (quantized("awq"), "is quantized (awq)"),
    "fp8": (quantized("fp8"), "is quantized (fp8)"),
    "compressed-tensors": (quantized("compressed-tensors"), "(compressed-tensors)"),
    "bitsandbytes, unnamed": (
        net("bert", "BertModel", quantization_config={"load_in_8bit": True}),
        "is quantized (bitsandbytes)",
    ),
    "quantized text_config": (
        net("gemma3", text_config={"quantization_config": {"quant_method": "torchao"}}),
        "is quantized (torchao)",
    ),
    "quantized in modules.json": (
        st("T", "P", **net("bert", "BertModel", quantization_config={"quant_method": "hqq"})),
        "is quantized (hqq)",
    ),
    "AutoGPTQ of old": (
        {**net("llama", "LlamaModel"), "quantize_config.json": {"bits": 4}},
        "is quantized (4 bits)",
    ),
    "ModelOpt": (
        {**net("qwen3"), "hf_quant_config.json": {"quantization": {"quant_algo": "NVFP4"}}},
        "is quantized (NVFP4)",
    ),
    "MLX": (net("bert", "BertModel", quantization={"bits": 4}), "is quantized (mlx)"),
    "float8": (net("bert", "BertModel", dtype="float8_e4m3fn"), "is quantized (fp8)"),
    # other families that say so
    "a type to come": (
        {TYPE: {"model_type": "GraphEncoder"}, **st("T", "P")},
        "is a GraphEncoder of sentence-transformers, which this version does not know",
    ),
    "ColPali": (net("colpali", "ColPaliForRetrieval", vision_config={}), "late-interaction"),
    # without modules.json
    "ner": (net("bert", "BertForTokenClassification"), "is a tagger"),
    "qa": (net("deberta-v2", "DebertaV2ForQuestionAnswering"), "finds answers in a text"),
    "nsp": (net("bert", "BertForNextSentencePrediction"), "scores pairs of texts"),
    "swag": (net("bert", "BertForMultipleChoice"), "is a multiple-choice model"),
    "t5": (net("t5", "T5ForConditionalGeneration", is_encoder_decoder=True), "it writes text"),
    "bart": (net("bart", "BartModel", is_encoder_decoder=True), "is an encoder-decoder"),
    "dpr": (net("dpr", "DPRQuestionEncoder"), "is no plain encoder (DPRQuestionEncoder)"),
    "llm": (net(*QWEN), "is a language model (Qwen3ForCausalLM)"),
    "gpt2": (net("gpt2", "GPT2LMHeadModel"), "is a language model (GPT2LMHeadModel)"),
    "chat": (
        {**net(*QWEN), "tokenizer_config.json": {"chat_template": "{{ x }}"}},
        "is a chat model (Qwen3ForCausalLM)",
    ),
    "chat by file": ({**net(*QWEN), "chat_template.jinja": "{{ x }}"}, "is a chat model"),
    "BERT that writes": (net("bert", "BertLMHeadModel"), "is a language model"),
    "BERT as a decoder": (net("bert", "BertModel", is_decoder=True), "is a decoder (BertModel)"),
    "XLM that writes": (net("xlm", "XLMModel", causal=True), "is a decoder (XLMModel)"),
    "bare decoder": (net("mistral", "MistralModel"), "is a decoder (MistralModel) without"),
    "bare decoder, unnamed": (net("llama"), "is a decoder (LlamaModel)"),
    "half a length": (net("funnel", "FunnelBaseModel"), "is no plain encoder (FunnelBaseModel)"),
    "neomme": (net("neomme", "NeommeModel"), "is a model of text and images (NeommeModel)"),
    "no mask": (net("fnet", "FNetModel"), "is no plain encoder (FNetModel)"),
    "characters": (net("canine", "CanineModel"), "is no plain encoder (CanineModel)"),
    "tables": (net("tapas", "TapasModel"), "is no plain encoder (TapasModel)"),
    "own head": (net("bert", "BertForEmotion"), "is a model for Emotion (BertForEmotion)"),
    # other senses
    "clip": (net("clip", "CLIPModel", vision_config={}), "is a model of text and images (CLIP)"),
    "chinese clip": (net("chinese_clip", "ChineseCLIPModel"), "(CLIP)"),
    "siglip 2": (net("siglip2", "Siglip2Model"), "(CLIP)"),
    "clip's text half": (net("clip_text_model", "CLIPTextModel"), "(CLIP)"),
    "clap": (net("clap", "ClapModel", audio_config={}), "is a model of text and sound (ClapModel)"),
    "clip as it was saved": (st("sentence_transformers.models.CLIPModel"), "(CLIP)"),
    "clip as it is saved": (st("T", **{BERT: {"modality_config": CLIP_TEXT}}), "(CLIP)"),
    "images only": (
        st("T", "P", **{BERT: {"modality_config": {"image": {"method": "forward"}}}}),
        "takes no text, but image",
    ),
    "vit": (net("vit", "ViTModel"), "is a model of images (ViTModel)"),
    "vit with pooling": (st("T", "P", **net("vit", "ViTModel")), "is a model of images"),
    "whisper": (net("whisper", "WhisperForConditionalGeneration"), "is a model of text and sound"),
    "vlm": (
        net("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", vision_config={}),
        "is a model of text and images (Qwen2_5_VLForConditionalGeneration)",
    ),
    "diffusers": ({"model_index.json": {}}, "is a pipeline of diffusers"),
    # code of a repository
    "gte-multilingual": (
        net("new", "NewModel", auto_map={"AutoModel": "a/b--modeling.NewModel"}),
        CODE.format("a/b--modeling.NewModel"),
    ),
    "gte-Qwen2": (
        st("T", "P", **net("qwen2", auto_map={"AutoModel": "modeling_qwen.Qwen2Model"})),
        CODE.format("modeling_qwen.Qwen2Model"),
    ),
    "jina v2": (net("bert", auto_map={"AutoConfig": "c.JinaConfig"}), CODE.format("c.JinaConfig")),
    "tokenizer's code": (
        st("T", "P", **{"tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["t.A", None]}}}),
        CODE.format("t.A"),
    ),
    "tokenizer's code of old": (
        st("T", "P", **{"tokenizer_config.json": {"auto_map": ["t.Slow", "t.Fast"]}}),
        CODE.format("t.Slow"),
    ),
    "module's code": (st("T", "custom_st.Pooler"), CODE.format("custom_st.Pooler")),
    "nomic otherwise": (
        st("T", "P", **net("nomic_bert", **{**NOMIC, "rotary_emb_base": 10000})),
        "is nomic_bert with rotary_emb_base 10000, which only the code",
    ),
    "nomic moe": (net("nomic_bert", activation_function="gelu"), "activation_function gelu"),
    "unknown type": (net("brandnew", "BrandNewModel"), "has model_type 'brandnew', which this"),
    "no type": ({"config.json": {"hidden_size": 8}}, "config.json names no model_type"),
    "model2vec": (net("model2vec", "StaticModel"), "is a static model (model2vec)"),
    # not whole
    "nothing": ({"README.md": "hello"}, "holds no model: no config.json"),
    "damaged": ({"config.json": '{"model_type": "be'}, "is damaged: config.json"),
    "damaged pooling": ({**st("T", "D"), "1_Dense/config.json": "x"}, "1_Dense/config.json"),
    "no object": ({"config.json": [1]}, "is damaged: config.json holds no JSON object"),
    "modules.json of texts": ({"modules.json": ["a"]}, "is damaged: modules.json is no list"),
    "modules.json emptied": ({"modules.json": []}, "is damaged: modules.json is no list"),
    "path outside": ({"modules.json": [{"type": OLD["T"], "path": "../x"}]}, "path outside"),
    "no modules.json": ({**net(*QWEN), TYPE: {}}, "is not whole: modules.json is missing"),
    "its 1_Pooling only": (
        {**net("bert", "BertModel"), "1_Pooling/config.json": {}},
        "is not whole: modules.json is missing",
    ),
    "no network": ({"modules.json": [{"type": OLD["T"], "path": ""}]}, "config.json is missing"),
    "no Pooling": (st("T"), "modules.json has no Pooling"),
    "no Pooling but Normalize": (st("T", "N"), "modules.json has no Pooling"),
    "tokens to the end": (
        {**st("T", "D"), "1_Dense/config.json": TOKENS},
        "modules.json has no Pooling",
    ),
    "Pooling alone": (
        {"modules.json": [{"type": OLD["P"], "path": ""}], "config.json": {}},
        "nothing before Pooling in modules.json gives token_embeddings",
    ),
    "module of old": (
        st("sentence_transformers.models.BERT", "P"),
        "has a module 'BERT', which this version does not know",
    ),
    "router without pooling": (
        {
            "modules.json": [{"type": "sentence_transformers.models.Router", "path": ""}],
            "router_config.json": {"types": {"q": OLD["T"]}, "structure": {"query": ["q"]}},
            "q/config.json": {"model_type": "bert"},
        },
        "modules.json has no Pooling",
    ),
    "router with code": (
        {
            "modules.json": [{"type": f"{BASE}.router.Router", "path": ""}],
            "router_config.json": {"types": {"q": "own.Net"}, "structure": {"query": ["q"]}},
        },
        CODE.format("own.Net"),
    ),
}

OTHERS: dict[str, tuple[Files, str]] = {
    "CrossEncoder": ({TYPE: {"model_type": "CrossEncoder"}, **st("T")}, "reranker"),
    "PyLate 3": ({TYPE: {"model_type": "ColBERT"}, **st("T", "D")}, "multi_vector"),
    "PyLate 1": (st("T", "pylate.models.Dense.Dense"), "multi_vector"),
    "PyLate prefixes": ({TYPE: {"query_prefix": "[Q] "}, **st("T", "P")}, "multi_vector"),
    "maxsim": ({TYPE: {"similarity_fn_name": "MaxSim"}, **st("T", "P")}, "multi_vector"),
    "SPLADE by module": (
        st("T", "sentence_transformers.sparse_encoder.models.SpladePooling"),
        "sparse",
    ),
    "CSR": (
        st("T", "P", "sentence_transformers.sparse_encoder.models.SparseAutoEncoder"),
        "sparse",
    ),
    "LogitScore": (
        st("T", "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"),
        "reranker",
    ),
    "MultiVectorMask": (
        st("T", "sentence_transformers.multi_vector_encoder.modules.MultiVectorMask"),
        "multi_vector",
    ),
    "reranker by task": (
        st("T", **{BERT: {"transformer_task": "text-generation"}}),
        "reranker",
    ),
    "scores by task": (
        st("T", **{BERT: {"transformer_task": "sequence-classification"}}),
        "reranker",
    ),
    "Stanford ColBERT": (net("bert", "HF_ColBERT"), "multi_vector"),
    "ColBERT's file": ({**net("bert", "BertModel"), "artifact.metadata": {}}, "multi_vector"),
    "lightonai/colbertv2.0": (net("bert", "BertModel"), "multi_vector"),
    "naver/splade-v3": (net("bert", "BertForMaskedLM"), "sparse"),
    "OpenSearch": ({**net("distilbert", "DistilBertForMaskedLM"), "idf.json": {}}, "sparse"),
    "reranker": (
        net("bert", "BertForSequenceClassification", id2label={"0": "LABEL_0"}),
        "reranker",
    ),
    "old CrossEncoder": (
        net("roberta", "RobertaForX", sbert_ce_default_activation_function="torch.nn.Sigmoid"),
        "reranker",
    ),
    "sentiment": (
        net("xlm-roberta", "XLMRobertaForSequenceClassification", id2label={"0": "a", "1": "b"}),
        "classifier",
    ),
    "Qwen/Qwen3-Reranker-0.6B": (net(*QWEN), "reranker"),
}

PASSES: dict[str, tuple[Files, str | None]] = {
    "bert": (net("bert", "BertModel"), MEAN),
    "bert, unnamed": (net("bert"), MEAN),
    "bert for pretraining": (net("bert", "BertForPreTraining"), MEAN),
    "modernbert": (net("modernbert", "ModernBertModel"), MEAN),
    "t5's encoder": (net("t5", "T5EncoderModel"), MEAN),
    "bidirectional qwen": (net("qwen3", "Qwen3Model", is_causal=False), MEAN),
    "bidirectional gemma": (
        net("gemma3_text", "Gemma3TextModel", use_bidirectional_attention=True),
        MEAN,
    ),
    "masked": (
        net("xlm-roberta", "XLMRobertaForMaskedLM"),
        MEAN_OF_HEAD.format("XLMRobertaForMaskedLM"),
    ),
    "xlnet": (net("xlnet", "XLNetLMHeadModel"), MEAN_OF_HEAD.format("XLNetLMHeadModel")),
    "quantization_config is null": (net("bert", "BertModel", quantization_config=None), MEAN),
    "Qwen3-Embedding": (st("T", "P", "N", **net(*QWEN), **{TYPE: {"prompts": {}}}), None),
    "classifier with Pooling": (st("T", "P", **net("bert", "BertForSequenceClassification")), None),
    "nomic": (st("T", "P", **net("nomic_bert", **NOMIC)), None),
    "arctic m v2": (
        st("T", "P", **net("gte", "GteModel", auto_map={"AutoModel": "m.GteModel"})),
        None,
    ),
    "its heads' code only": (
        st("T", "P", **net("bert", auto_map={"AutoModelForMaskedLM": "m.Bert"})),
        None,
    ),
    "gguf beside it": ({**st("T", "P"), "m.gguf": "", "model.safetensors": ""}, None),
    "splade in its name, with Pooling": (st("T", "P"), None),
    "vector of its own": (
        st(
            "T",
            **{
                BERT: {
                    "modality_config": {"text": {"method": "forward"}},
                    "module_output_name": "sentence_embedding",
                }
            },
        ),
        None,
    ),
    "vlm that takes text": (
        st(
            "T",
            "P",
            **net("qwen3_vl", vision_config={}),
            **{
                BERT: {
                    "modality_config": {"text": {"method": "forward"}, "image": {}},
                    "module_output_name": "token_embeddings",
                }
            },
        ),
        None,
    ),
    "router of images and texts": (
        {
            "modules.json": [
                {"type": f"{BASE}.router.Router", "path": ""},
                {"type": OLD["P"], "path": "1_Pooling"},
            ],
            "router_config.json": {
                "types": {"t": OLD["T"], "i": OLD["T"]},
                "structure": {"text": ["t"], "image": ["i"]},
            },
            "t/config.json": {"model_type": "bert"},
            "i/config.json": {"model_type": "vit"},
            f"i/{BERT}": {"modality_config": {"image": {"method": "forward"}}},
            "1_Pooling/config.json": {},
        },
        None,
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_of_no_kind_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    files, expected = REFUSED[kind]
    with pytest.raises(ModelUnavailable) as refusal:
        identify(write(tmp_path, files), kind)
    line = refusal.value.message
    assert expected in line and line.startswith(repr(kind))
    assert "\n" not in line and len(line) < 250 and "trust_remote_code" not in line


@pytest.mark.parametrize("kind", PASSES)
def test_an_embedding_model_passes_and_what_is_assumed_is_said(kind: str, tmp_path: Path) -> None:
    files, note = PASSES[kind]
    found = identify(write(tmp_path, files), kind)
    assert found == ("sentence_transformer", (note,) if note else ())


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_are_told_by_their_files_or_their_name(name: str, tmp_path: Path) -> None:
    files, kind = OTHERS[name]
    assert identify(write(tmp_path, files), name) == (kind, ())
    if kind != "classifier":
        assert identify(tmp_path, name, kind).kind == kind
    with pytest.raises(ModelUnavailable, match='its type is no sentence_transformer; leave "type"'):
        identify(tmp_path, name, "sentence_transformer")


@pytest.mark.parametrize("wanted", ["reranker", "sparse", "multi_vector"])
def test_a_type_that_the_files_contradict_is_refused_with_what_the_model_is(
    wanted: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnavailable, match=f"is an embedding model; .* is no {wanted}"):
        identify(write(tmp_path, st("T", "P")), "m", wanted)


def test_the_type_decides_what_no_file_tells(tmp_path: Path) -> None:
    masked = write(tmp_path / "a", net("bert", "BertForMaskedLM"))
    assert identify(masked, "m", "sparse").kind == "sparse"
    assert identify(masked, "m").kind == "sentence_transformer"
    writes = write(tmp_path / "b", net(*QWEN))
    assert identify(writes, "m", "reranker").kind == "reranker"


def test_the_name_of_a_gguf_file_is_enough(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="is GGUF"):
        identify(tmp_path / "bge-m3-q8_0.gguf", "/models/bge-m3-q8_0.gguf")


def test_long_names_and_foreign_texts_leave_one_short_line(tmp_path: Path) -> None:
    long = "x" * 3000
    for files in (net(long), net("bert", f"Bert{long}"), st("T", f"{long}.Y\nZ"), net(*QWEN)):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        with pytest.raises(ModelUnavailable) as refusal:
            identify(write(folder, files), f"/models/{long}/mine")
        line = refusal.value.message
        assert len(line) < 250 and "\n" not in line and "/mine'" in line


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Save tiny models by the libraries themselves, each once."""
    folder = tmp_path_factory.mktemp("saved")

    def save(name: str) -> Path:
        if not (folder / name).exists():
            SAVES[name](folder / name)
        return folder / name

    return save


def bert(folder: Path, head: str = "BertModel") -> Path:
    import transformers

    size = {"vocab_size": 30522, "hidden_size": 8, "intermediate_size": 8}
    depth = {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32}
    config = transformers.BertConfig(**size, **depth, num_labels=1)
    getattr(transformers, head)(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(MINILM).save_pretrained(folder)
    return folder


def t5(folder: Path) -> Path:
    import transformers

    config = transformers.T5Config(vocab_size=30522, d_model=8, d_kv=4, d_ff=8, num_layers=1)
    transformers.T5EncoderModel(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(MINILM).save_pretrained(folder)
    return folder


def dense_model(folder: Path, make: Callable[[Path, Any], list[Any]]) -> None:
    import sentence_transformers as library
    from sentence_transformers.sentence_transformer import modules

    made = make(folder.with_suffix(".net"), modules)
    library.SentenceTransformer(modules=made, device="cpu").save(str(folder))


def words(m: Any) -> list[Any]:
    vocabulary = m.tokenizer.WhitespaceTokenizer(["a", "b"])
    return [m.WordEmbeddings(vocabulary, [[1.0, 0.0], [0.0, 1.0]]), m.Pooling(2)]


def static(m: Any) -> Any:
    from tokenizers import Tokenizer

    return m.StaticEmbedding(Tokenizer.from_file(str(MINILM / "tokenizer.json")), embedding_dim=8)


SAVES: dict[str, Callable[[Path], Any]] = {
    "BertModel": bert,
    "BertForMaskedLM": lambda f: bert(f, "BertForMaskedLM"),
    "BertForSequenceClassification": lambda f: bert(f, "BertForSequenceClassification"),
    "two Dense": lambda f: dense_model(
        f,
        lambda net, m: [
            m.Transformer(str(bert(net))),
            m.Pooling(8),
            m.Dense(8, 16),
            m.Dense(16, 8),
            m.Normalize(),
        ],
    ),
    "T5 and Dense": lambda f: dense_model(
        f, lambda net, m: [m.Transformer(str(t5(net))), m.Pooling(8), m.Dense(8, 4)]
    ),
    "static": lambda f: dense_model(f, lambda net, m: [static(m), m.Normalize()]),
    "router": lambda f: dense_model(
        f,
        lambda net, m: [
            m.Router.for_query_document([static(m)], [m.Transformer(str(bert(net))), m.Pooling(8)]),
            m.Normalize(),
        ],
    ),
    "words": lambda f: dense_model(f, lambda net, m: words(m)),
    "layers": lambda f: dense_model(
        f,
        lambda net, m: [
            m.Transformer(str(bert(net)), config_kwargs={"output_hidden_states": True}),
            m.WeightedLayerPooling(8, num_hidden_layers=1, layer_start=1),
            m.Pooling(8),
        ],
    ),
    "SparseEncoder": lambda f: other_model(f, "SparseEncoder", "BertForMaskedLM"),
    "CrossEncoder": lambda f: other_model(f, "CrossEncoder", "BertForSequenceClassification"),
    "MultiVectorEncoder": lambda f: other_model(f, "MultiVectorEncoder", "BertModel"),
}


def other_model(folder: Path, family: str, head: str) -> None:
    import sentence_transformers as library

    made = getattr(library, family)(str(bert(folder.with_suffix(".net"), head)), device="cpu")
    made.save_pretrained(str(folder))


@pytest.mark.parametrize(
    "kind", ["two Dense", "T5 and Dense", "static", "router", "words", "layers"]
)
def test_what_the_library_saves_passes(kind: str, saved: Callable[[str], Path]) -> None:
    assert identify(saved(kind), kind) == ("sentence_transformer", ())


def test_the_bundled_model_passes() -> None:
    found = identify(MINILM, "sentence-transformers/all-MiniLM-L6-v2", "sentence_transformer")
    assert found == ("sentence_transformer", ())


def test_what_transformers_saves_of_an_encoder_passes_with_a_note(
    saved: Callable[[str], Path],
) -> None:
    assert identify(saved("BertModel"), "m").notes == (MEAN,)
    note = MEAN_OF_HEAD.format("BertForMaskedLM")
    assert identify(saved("BertForMaskedLM"), "m") == ("sentence_transformer", (note,))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("BertForSequenceClassification", "reranker"),
        ("CrossEncoder", "reranker"),
        ("SparseEncoder", "sparse"),
        ("MultiVectorEncoder", "multi_vector"),
    ],
)
@pytest.mark.parametrize("type_named", [True, False])
def test_what_the_library_saves_of_other_families_is_told(
    name: str, kind: str, type_named: bool, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = saved(name)
    if not type_named:  # their modules or their head say it too
        for file in folder.rglob("*.json"):
            if file.name != TYPE:
                write(tmp_path, {str(file.relative_to(folder)): file.read_text()})
        folder = tmp_path
    assert identify(folder, "m").kind == kind


def test_reading_kinds_loads_no_network_library() -> None:
    code = (
        "import sys, embedders.kinds; print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]

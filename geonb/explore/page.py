"""One page about one run: its embedding space beside the map."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

import geonb
from geonb.data.attribution import attribution
from geonb.data.sentinel2 import true_color
from geonb.data.store import PlaceStore
from geonb.explore.linked import MODALITIES, TEXT_CHARACTERS, linked_view, shorten
from geonb.explore.projection import project
from geonb.explore.views import write_page

if TYPE_CHECKING:
    from geonb.model import Model

ALL_TEXT = 20_000_000  # characters in a page; with more texts each is cut shorter
CLUSTERS = 8
FIRST = ("climate", "continent", "country", "elevation_m")  # the first of these that the store has colours the page


def explore_page(run: str | Path, data: str | Path, out: str | Path, seed: int = 0, progress: bool = True) -> Path:
    """Embed every place of a store by its position and write a page to explore the embedding space.

    Args:
        run: directory of a finished run. data: directory of a place store. out: the page to write.
        seed: of the UMAP projection.

    Returns:
        The path of the page: one file of HTML that needs no network. It has every place with its facts and the
        beginning of its text, credited as its licence asks, and thumbnails of up to 400 images.

    Raises:
        ValueError: the store or the run cannot be read, or the store has fewer than 4 places.
    """
    from geonb._util import tqdm

    run, data = Path(run), Path(data)
    model, store = geonb.load(run), PlaceStore.open(data)
    with tqdm(total=3, desc="embedding", disable=not progress) as bar:
        embeddings = model.embed_locations(store.lonlat)
        bar.update()
        bar.set_description("projecting")
        xy = project(embeddings, method="umap", seed=seed)
        bar.update()
        bar.set_description("writing")
        columns = _columns(store)
        columns.setdefault("cluster", clusters(embeddings, seed=seed))
        with_image = np.flatnonzero(store.has("image"))
        view = linked_view(
            store.lonlat,
            xy,
            color=columns,
            hover=_titles(store),
            titles=(f"Embedding (UMAP of {model.dim} dimensions)", "Map (Equal Earth)"),
            alt=(f"UMAP projection of the embeddings of {len(store)} places", f"World map of {len(store)} places"),
            units={_label(name): fact.get("units") for name, fact in store.facts.items()},
            about=_about(store),
            images=(lambda rows: true_color(store.images(rows))) if len(with_image) else None,
            image_rows=with_image,
            simulated=[m for m in MODALITIES if store.simulated(m)],
        )
        path = write_page(out, f"{run.name}: {len(store):,} places", _body(run, model, store, seed, view.to_html()))
        bar.update()
    return path


def _label(name: str) -> str:
    for ending in ("_m", "_km"):
        name = name.removesuffix(ending)
    return name.replace("_", " ")


def _columns(store: PlaceStore) -> dict[str, np.ndarray]:
    names = [n for n in FIRST if n in store.facts] + [n for n in store.facts if n not in FIRST]
    return {_label(name): store.column(name) for name in names}


def _titles(store: PlaceStore) -> list[str]:
    titles = store.column("title") if "title" in store.columns else [None] * len(store)
    return [title or "Unnamed place" for title in titles]


def _about(store: PlaceStore) -> dict[str, list] | None:
    """What the page says about each place's text: its beginning, where it is from, and whom to credit for it."""
    rows = np.flatnonzero(store.has("text"))
    if len(rows) == 0:
        return None
    characters = max(80, min(TEXT_CHARACTERS, ALL_TEXT // len(rows)))
    about: dict[str, list] = {"text": [shorten(text, characters) for text in store.texts(rows)]}
    for name, column in (("url", "url"), ("license", "license"), ("creator", "source")):
        about[name] = store.text_column(column, rows)
    about |= {name: [None] * len(rows) for name in ("license_url", "changes")}
    position = {place: i for i, place in enumerate(store.place_id[rows].tolist())}
    for credit in attribution(store, rows).to_pylist():
        i = position[credit["place_id"]]
        for name in ("license", "license_url", "creator", "changes"):
            about[name][i] = credit[name] or about[name][i]
    spread: dict[str, list] = {}
    for name, values in about.items():
        spread[name] = [None] * len(store)
        for row, value in zip(rows.tolist(), values, strict=True):
            spread[name][row] = value
    return spread


def clusters(embeddings: ArrayLike, count: int = CLUSTERS, seed: int = 0, steps: int = 25) -> np.ndarray:
    """Names of clusters, "cluster 1" the largest, of unit vectors (n, d): k-means by the cosine.

    Centres start by k-means++ (Arthur and Vassilvitskii, 2007) from the seed, on at most 20,000 of the vectors.
    """
    z = np.asarray(embeddings, np.float32)
    rng = np.random.default_rng(seed)
    sample = z if len(z) <= 20_000 else z[rng.choice(len(z), 20_000, replace=False)]
    centres = sample[[rng.integers(len(sample))]]
    for _ in range(min(count, len(sample)) - 1):
        far = np.clip(1 - (sample @ centres.T).max(1).astype(np.float64), 1e-12, None)
        centres = np.vstack([centres, sample[rng.choice(len(sample), p=far / far.sum())]])
    for _ in range(steps):
        nearest = (sample @ centres.T).argmax(1)
        sums = centres.copy()
        for c in np.unique(nearest):  # an empty cluster keeps its centre
            sums[c] = sample[nearest == c].sum(0)
        moved = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        if np.allclose(moved, centres, atol=1e-6):
            break
        centres = moved
    nearest = (z @ centres.T).argmax(1)
    rank = np.empty(len(centres), int)
    rank[np.argsort(-np.bincount(nearest, minlength=len(centres)), kind="stable")] = np.arange(len(centres))
    return np.array([f"cluster {c + 1}" for c in rank], object)[nearest]


def _body(run: Path, model: Model, store: PlaceStore, seed: int, view: str) -> str:
    simulated = [m for m in MODALITIES if store.simulated(m)]
    notice = ""
    if simulated:
        names = {"location": "positions", "text": "texts", "image": "images"}
        what = " and ".join(names[m] for m in simulated)
        notice = (
            f'<p class="notice"><strong>Simulated:</strong> the {what} of this store are simulated, not observed.</p>'
        )
    sources = "".join(
        f"<dt>{escape(_label(name))}</dt><dd>{escape(str(fact.get('source') or 'source not stated'))}</dd>"
        for name, fact in store.facts.items()
    )
    return (
        f"<h1>Embedding space of {escape(run.name)}</h1>"
        f'<p class="soft">{len(store):,} places, embedded by their position alone; trained on '
        f"{escape(', '.join(model.modalities))}; UMAP with seed {seed}.</p>{notice}{view}"
        "<p>Neighbours in the left picture are places that the model embeds alike. UMAP keeps neighbourhoods; the "
        "distances between groups, their sizes and the axes mean nothing.</p>"
        f"<details><summary>Where the facts come from</summary><dl>{sources}</dl></details>{_credits(store)}"
    )


def _credits(store: PlaceStore) -> str:
    """Whom the licences of the texts ask to credit, in words."""
    table = attribution(store).select(["creator", "license", "license_url", "changes"])
    if len(table) == 0:
        return ""
    counted = table.group_by(table.column_names).aggregate([([], "count_all")]).to_pylist()
    lines = []
    for row in sorted(counted, key=lambda r: (-r["count_all"], str(r["creator"]))):
        license = escape(row["license"])
        if row["license_url"]:
            license = f'<a href="{escape(row["license_url"])}" rel="noopener noreferrer" target="_blank">{license}</a>'
        changes = f"; {escape(row['changes'])}" if row["changes"] else ""
        creator = escape(row["creator"] or "creator not stated")
        lines.append(f"<li>{row['count_all']:,} texts: {creator}, {license}{changes}, shortened</li>")
    return (
        "<details><summary>Whom to credit for the texts</summary><p>Each text is credited, and linked where its "
        f"address is known, when its place is inspected.</p><ul>{''.join(lines)}</ul></details>"
    )

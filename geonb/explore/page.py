"""A page about a run: its embedding space beside the map."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import geonb
from geonb.data.attribution import attribution
from geonb.data.sentinel2 import true_color
from geonb.data.store import PlaceStore
from geonb.explore.linked import ABOUT, MODALITIES, TEXT_CHARACTERS, linked_view, shorten
from geonb.explore.projection import project
from geonb.explore.views import PLURALS, write_page

if TYPE_CHECKING:
    from geonb.model import Model

ALL_TEXT = 20_000_000  # characters in a page; with more texts each is cut shorter
CLUSTERS = 8
SOURCES = {"url": "url", "license": "license", "creator": "source"}  # what is said of a text -> column of the store
FIRST = ("climate", "continent", "country", "elevation_m")  # the first of these that the store has colours the page


def explore_page(run: str | Path, data: str | Path, out: str | Path) -> Path:
    """Embed every place of a store by its position and write a page to explore the embedding space.

    The page is one file of HTML that needs no network. It has every place with its facts and the beginning of its text,
    credited as its licence asks, and thumbnails of up to 400 images.

    Args:
        run, data, out: folders of a finished run and of a place store, and the page to write.

    Returns:
        The path of the page.

    Raises:
        ValueError: the store or the run cannot be read, or the store has fewer than 4 places.
    """
    from geonb._util import tqdm

    run, data = Path(run), Path(data)
    model, store = geonb.load(run), PlaceStore.open(data)
    with tqdm(total=3, desc="embedding") as bar:
        embeddings = model.embed_locations(store.lonlat)
        bar.update()
        bar.set_description("projecting")
        xy = project(embeddings)
        bar.update()
        bar.set_description("writing")
        columns = _columns(store)
        columns.setdefault("cluster", clusters(embeddings))
        with_image = np.flatnonzero(store.has("image"))
        titles = store.column("title") if "title" in store.columns else [None] * len(store)
        view = linked_view(
            store.lonlat,
            xy,
            color=columns,
            hover=[title or "Unnamed place" for title in titles],
            titles=(f"Embedding (UMAP of {model.dim} dimensions)", "Map (Equal Earth)"),
            alt=(f"UMAP projection of the embeddings of {len(store)} places", f"World map of {len(store)} places"),
            units={_label(name): fact.get("units") for name, fact in store.facts.items()},
            about=_about(store),
            images=(lambda rows: true_color(store.images(rows))) if len(with_image) else None,
            image_rows=with_image,
            simulated=[m for m in MODALITIES if store.simulated(m)],
        )
        path = write_page(out, f"{run.name}: {len(store):,} places", _body(run, model, store, view.to_html()))
        bar.update()
    return path


def _label(name: str) -> str:
    return name.removesuffix("_m").removesuffix("_km").replace("_", " ")


def _columns(store: PlaceStore) -> dict[str, np.ndarray]:
    names = sorted(store.facts, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    return {_label(name): store.column(name) for name in names}


def _about(store: PlaceStore) -> dict[str, list] | None:
    """Collect for each place the beginning of its text, its source, and whom to credit for it."""
    rows = np.flatnonzero(store.has("text"))
    if len(rows) == 0:
        return None
    about: dict[str, list] = {name: [None] * len(store) for name in ABOUT}
    characters = max(80, min(TEXT_CHARACTERS, ALL_TEXT // len(rows)))
    columns = {name: store.text_column(column, rows) for name, column in SOURCES.items()}
    columns["text"] = [shorten(text, characters) for text in store.texts(rows)]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            about[name][row] = value
    row_of = {place: row for row, place in enumerate(store.place_id.tolist())}
    for credit in attribution(store, rows).to_pylist():
        row = row_of[credit["place_id"]]
        for name in ("license", "license_url", "creator", "changes"):
            about[name][row] = credit[name] or about[name][row]
    return about


def clusters(embeddings: np.ndarray, count: int = CLUSTERS) -> np.ndarray:
    """Name clusters of unit vectors (n, d), found by k-means: "cluster 1" is the largest."""
    from sklearn.cluster import KMeans

    distinct = len(np.unique(embeddings, axis=0))
    found = KMeans(min(count, distinct), n_init=1, random_state=0).fit_predict(embeddings)
    rank = np.argsort(np.argsort(-np.bincount(found), kind="stable"))
    return np.array([f"cluster {c + 1}" for c in rank], object)[found]


def _body(run: Path, model: Model, store: PlaceStore, view: str) -> str:
    what = " and ".join(PLURALS[m] for m in MODALITIES if store.simulated(m))
    words = f"<strong>Simulated:</strong> the {what} of this store are simulated, not observed."
    notice = f'<p class="notice">{words}</p>' if what else ""
    sources = "".join(
        f"<dt>{escape(_label(name))}</dt><dd>{escape(str(fact.get('source') or 'source not stated'))}</dd>"
        for name, fact in store.facts.items()
    )
    return (
        f"<h1>Embedding space of {escape(run.name)}</h1>"
        f'<p class="soft">{len(store):,} places, embedded by their position alone; trained on '
        f"{escape(', '.join(model.modalities))}; UMAP with seed 0.</p>{notice}{view}"
        "<p>Neighbours in the left picture are places whose embeddings are similar. UMAP keeps neighbourhoods; the "
        "distances between groups, their sizes and the axes mean nothing.</p>"
        f"<details><summary>Where the facts come from</summary><dl>{sources}</dl></details>{_credits(store)}"
    )


def _credits(store: PlaceStore) -> str:
    """Say in words whom the licences of the texts ask to credit."""
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
        "<details><summary>Whom to credit for the texts</summary><p>The page credits each text, and links it where its "
        f"address is known, when you inspect its place.</p><ul>{''.join(lines)}</ul></details>"
    )

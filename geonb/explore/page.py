"""A page about a run: its embedding space beside the map."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import geonb
from geonb._util import as_text, tqdm
from geonb.data.attribution import attribution
from geonb.data.landscape import picture
from geonb.data.sentinel2 import true_color
from geonb.data.store import PlaceStore
from geonb.explore.linked import ABOUT, TEXT_CHARACTERS, linked_view, shorten
from geonb.explore.projection import EQUAL, all_equal, project
from geonb.explore.views import plural, write_page

if TYPE_CHECKING:
    from geonb.model import Model

ALL_TEXT = 20_000_000  # characters in a page; with more texts each is cut shorter
PICTURES: dict[str, Callable] = {"landscape": picture, "sentinel2": true_color}  # the first that a store has is shown
FIRST = ("climate", "continent", "country", "elevation_m")  # the first of these that the store has colours the page


def explore_page(run: str | Path, data: str | Path, out: str | Path) -> Path:
    """Embed every place of a store by its position and write a page to explore the embedding space.

    The page is one file of HTML that needs no network. It has every place with its facts, the
    beginning of its text, credited as its licence asks, and thumbnails of up to 400 images.

    Args:
        run, data: folders of a finished run and of a place store of at least 4 places.
        out: the page to write; returned.
    """
    run, model, store = Path(run), geonb.load(run), PlaceStore.open(data)
    with tqdm(total=3, desc="embed, project, write") as bar:
        embeddings = model.embed_locations(store.lonlat)
        bar.update()
        xy = project(embeddings)
        bar.update()
        path = write_page(out, f"{run.name}: {len(store):,} places", _body(run, model, store, embeddings, xy))
        bar.update()
    return path


def _body(run: Path, model: Model, store: PlaceStore, embeddings: np.ndarray, xy: np.ndarray) -> str:
    names = sorted(store.facts, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    columns = {_label(name): store.column(name) for name in names}
    columns.setdefault("cluster", clusters(embeddings))
    titles = store.column("title") if "title" in store.columns else [None] * len(store)
    simulated = [m for m in store.modalities if store.simulated(m)]
    shown = next((m for m in PICTURES if m in store.imagery), "")
    marked = {"image" if m == shown else m for m in simulated}
    view = linked_view(
        store.lonlat,
        xy,
        color=columns,
        hover=[as_text(title) or "Unnamed place" for title in titles],
        titles=(f"Embedding (UMAP of {model.dim} dimensions)", "Map (Equal Earth)"),
        alt=(f"UMAP projection of the embeddings of {len(store)} places", f"World map of {len(store)} places"),
        units={_label(name): fact.get("units") for name, fact in store.facts.items()},
        about=_about(store),
        images=lambda rows: PICTURES[shown](store.images(shown, rows)),
        image_rows=np.flatnonzero(store.has(shown)) if shown else (),
        simulated=marked,
    )
    what = " and ".join(plural(m) for m in simulated)
    words = f"<strong>Simulated:</strong> the {what} of this store are simulated, not observed."
    notice = f'<p class="notice">{words}</p>' if what else ""
    if all_equal(embeddings, EQUAL):
        notice += '<p class="notice"><strong>Collapsed:</strong> all embeddings are equal; they show nothing.</p>'
    sources = "".join(
        f"<dt>{escape(_label(name))}</dt><dd>{escape(str(fact.get('source') or 'source not stated'))}</dd>"
        for name, fact in store.facts.items()
    )
    return (
        f"<h1>Embedding space of {escape(run.name)}</h1>"
        f'<p class="soft">{len(store):,} places, embedded by their position alone; trained on '
        f"{escape(', '.join(model.modalities))}; UMAP with seed 0.</p>{notice}{view.to_html()}"
        "<p>Neighbours in the left picture are places whose embeddings are similar. UMAP keeps neighbourhoods; the "
        "distances between groups, their sizes and the axes mean nothing.</p>"
        f"<details><summary>Where the facts come from</summary><dl>{sources}</dl></details>{_credits(store)}"
    )


def _label(name: str) -> str:
    return name.removesuffix("_m").removesuffix("_km").replace("_", " ")


def _about(store: PlaceStore) -> dict[str, np.ndarray] | None:
    """Collect for each place the beginning of its text, its source, and whom to credit for it."""
    rows = np.flatnonzero(store.has("text"))
    if len(rows) == 0:
        return None
    about = {name: np.full(len(store), None, object) for name in ABOUT}
    characters = max(80, min(TEXT_CHARACTERS, ALL_TEXT // len(rows)))
    about["text"][rows] = [shorten(text, characters) for text in store.texts(rows)]
    for name, column in (("url", "url"), ("license", "license"), ("creator", "source")):
        about[name][rows] = store.text_column(column, rows)
    row_of = {place: row for row, place in enumerate(store.place_id.tolist())}
    for credit in attribution(store, rows).to_pylist():
        row = row_of[credit["place_id"]]
        for name in ("license", "license_url", "creator", "changes"):
            about[name][row] = credit[name] or about[name][row]
    return about


def clusters(embeddings: np.ndarray, count: int = 8) -> np.ndarray:
    """Name clusters of unit vectors (n, d), found by k-means: "cluster 1" is the largest."""
    from sklearn.cluster import KMeans

    distinct = 1 if all_equal(embeddings, EQUAL) else len(np.unique(embeddings, axis=0))
    found = KMeans(min(count, distinct), n_init=1, random_state=0).fit_predict(embeddings)
    rank = np.argsort(np.argsort(-np.bincount(found), kind="stable"))
    return np.array([f"cluster {c + 1}" for c in rank], object)[found]


def _credits(store: PlaceStore) -> str:
    """List whom the licences of the texts ask to credit."""
    table = attribution(store).select(["creator", "license", "license_url", "changes"])
    lines = []
    counted = table.group_by(table.column_names).aggregate([([], "count_all")]).to_pylist()
    for row in sorted(counted, key=lambda r: (-r["count_all"], str(r["creator"]))):
        license = escape(row["license"])
        if row["license_url"]:
            license = f'<a href="{escape(row["license_url"])}" rel="noopener noreferrer" target="_blank">{license}</a>'
        changes = f"; {escape(row['changes'])}" if row["changes"] else ""
        creator = escape(row["creator"] or "creator not stated")
        lines.append(f"<li>{row['count_all']:,} texts: {creator}, {license}{changes}, shortened</li>")
    summary = "<summary>Whom to credit for the texts</summary>"
    return f"<details>{summary}<ul>{''.join(lines)}</ul></details>" if lines else ""

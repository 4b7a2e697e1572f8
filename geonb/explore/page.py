"""One page about one run: its embedding space beside the map."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np

import geonb
from geonb.data.store import PlaceStore
from geonb.explore.linked import linked_view, write_page
from geonb.explore.projection import project

TEXT_CHARACTERS = 120
FIRST = ("climate", "continent", "country", "elevation_m")  # the first of these that the store has colours the page


def explore_page(run, data, out, seed: int = 0, progress: bool = True) -> Path:
    """Embed every place of a store by its position and write a page to explore the embedding space.

    Args:
        run: directory of a finished run. data: directory of a place store. out: the page to write.
        seed: of the UMAP projection.

    Returns:
        The path of the page: one file of HTML that needs no network.

    Raises:
        ValueError: the store or the run cannot be read, or the store has fewer than 4 places.
    """
    from tqdm import tqdm

    run, data = Path(run), Path(data)
    model, store = geonb.load(run), PlaceStore.open(data)
    with tqdm(total=3, desc="embedding", disable=not progress) as bar:
        embeddings = model.embed_locations(store.lonlat)
        bar.update()
        bar.set_description("projecting")
        xy = project(embeddings, method="umap", seed=seed)
        bar.update()
        bar.set_description("writing")
        view = linked_view(
            store.lonlat,
            xy,
            color=_columns(store),
            hover=_descriptions(store),
            titles=(f"Embedding (UMAP of {model.dim} dimensions)", "Map (Equal Earth)"),
            alt=(f"UMAP projection of the embeddings of {len(store)} places", f"World map of {len(store)} places"),
            units={_label(name): fact.get("units") for name, fact in store.facts.items()},
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


def _descriptions(store: PlaceStore) -> list[str]:
    titles = store.column("title") if "title" in store.columns else [None] * len(store)
    rows = np.flatnonzero(store.has("text"))
    texts = dict(zip(rows.tolist(), store.texts(rows), strict=True))
    described = []
    for row, title in enumerate(titles):
        text = texts.get(row, "")
        text = text if len(text) <= TEXT_CHARACTERS else text[: TEXT_CHARACTERS - 1].rstrip() + "…"
        described.append(" — ".join(part for part in (title or "Unnamed place", text) if part))
    return described


def _body(run: Path, model, store: PlaceStore, seed: int, view: str) -> str:
    simulated = [m for m in ("location", "text", "image") if store.simulated(m)]
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
        f"<details><summary>Where the facts come from</summary><dl>{sources}</dl></details>"
    )

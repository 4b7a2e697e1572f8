"""Controls for a notebook with a kernel: project, ask and watch, on any run or table of embeddings.

Everything from data stands in text nodes (labels) or is escaped. All of it is made of core ipywidgets and, for the map,
ipyleaflet: JupyterLab and JupyterHub show it as it is; in Colab the map needs
``from google.colab import output; output.enable_custom_widget_manager()`` in a cell before.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as w
import numpy as np

from geonb._coords import check_lonlat

if TYPE_CHECKING:
    from geonb.data.store import PlaceStore
    from geonb.explore.figures import Figure
    from geonb.explore.linked import LinkedView
    from geonb.model import Model

WIDE = {"description_width": "initial"}
NAMED = 8  # places listed for a question


@dataclass
class Space:
    """Places in an embedding space, from a run or from a table.

    Attributes:
        name: shown in the controls. lonlat: (n, 2), degrees. z: (n, d), unit vectors if of a run.
        columns: name -> n values to colour by. titles: n strings. model: of a run, else None.
    """

    name: str
    lonlat: np.ndarray
    z: np.ndarray
    columns: dict = field(default_factory=dict)
    titles: list[str] | None = None
    model: object = None


def space_of(source: Model | str | Path, data: PlaceStore | str | Path | None = None, name: str = "") -> Space:
    """Open a source of embeddings.

    Args:
        source: a run's folder or a loaded model (its places are those of ``data``), or a GeoParquet file with a column
            ``embedding``, as ``geonb embed`` writes it; its other columns are there to colour by.
        data: a place store, or its folder; needed for a run.
        name: by default that of the folder or file.

    Raises:
        ValueError: a run without ``data``, or a table without embeddings.
    """
    from geonb.data.store import PlaceStore
    from geonb.model import Model, load

    if not isinstance(source, Model) and Path(source).suffix == ".parquet":
        return _from_table(Path(source), name or Path(source).stem)
    if data is None:
        raise ValueError("a run has no places of its own; give data=, a place store")
    store = data if isinstance(data, PlaceStore) else PlaceStore.open(data)
    model = source if isinstance(source, Model) else load(source)
    named = name or (model.manifest["architecture"] if isinstance(source, Model) else Path(source).name)
    titles = [t or "unnamed" for t in store.column("title")] if "title" in store.columns else None
    columns = {f: store.column(f) for f in store.facts}
    return Space(named, store.lonlat, model.embed_locations(store.lonlat), columns, titles, model)


def _from_table(path: Path, name: str) -> Space:
    import pyarrow as pa

    from geonb.inference import positions, read_embedding_table

    table, z = read_embedding_table(path)
    scalar = [f.name for f in table.schema if pa.types.is_primitive(f.type) or pa.types.is_string(f.type)]
    columns = {c: np.array(table[c].to_pylist(), object) for c in scalar if c != "title"}
    titles = [t or "unnamed" for t in table["title"].to_pylist()] if "title" in table.column_names else None
    return Space(name, check_lonlat(positions(table, path), str(path)), z, columns, titles)


class ProjectionWidget(w.VBox):
    """Choose a space and UMAP's parameters; see its linked view and its scores. Made by :func:`projection_widget`.

    Attributes:
        source, method, neighbors, min_dist, seed: the controls; setting their ``value`` projects anew.
        scores: a Label with the scores of what is shown. picture: the output that holds the linked view.
        view, xy: what is shown, a :class:`geonb.explore.linked.LinkedView` and its coordinates.
    """

    def __init__(self, spaces: Mapping[str, Space], rows: int, k: int) -> None:
        self.spaces, self.rows, self.k = spaces, rows, k
        self.view: LinkedView | None = None
        self.xy: np.ndarray | None = None
        self._near: dict = {}
        late = {"continuous_update": False, "style": WIDE}
        self.source = w.Dropdown(options=list(spaces), description="space", style=WIDE)
        self.method = w.Dropdown(options=["umap", "pca"], description="method", style=WIDE)
        self.neighbors = w.IntSlider(15, 2, 200, description="n_neighbors", **late)
        self.min_dist = w.FloatSlider(0.1, min=0, max=1, step=0.05, description="min_dist", **late)
        self.seed = w.BoundedIntText(0, 0, 2**31 - 1, description="seed", style=WIDE)
        self.scores = w.Label()
        self.picture = w.Output()
        controls = [self.source, self.method, self.neighbors, self.min_dist, self.seed]
        for control in controls:
            control.observe(self._project, "value")
        super().__init__([w.HBox(controls, layout=w.Layout(flex_flow="row wrap")), self.scores, self.picture])
        self._project()

    def _project(self, _: object = None) -> None:
        from geonb.explore.linked import linked_view
        from geonb.explore.projection import fit_projection, nearest_by_cosine

        chosen, method = self.source.value, self.method.value
        space = self.spaces[chosen]
        self.neighbors.disabled = self.min_dist.disabled = self.seed.disabled = method == "pca"
        self.scores.value = "projecting …"
        n = len(space.z)
        rows = np.arange(n) if n <= self.rows else np.sort(np.random.default_rng(0).choice(n, self.rows, replace=False))
        z = space.z[rows]
        near = None
        if method == "umap":
            most = min(self.neighbors.max, len(z) - 1)
            if chosen not in self._near:  # looked for once, for any number of neighbours
                self._near[chosen] = nearest_by_cosine(z, most)
            near = self._near[chosen]
        fitted = fit_projection(z, method, self.seed.value, self.neighbors.value, self.min_dist.value, near=near)
        self.xy, found = fitted.xy, fitted.scores(min(self.k, (len(z) - 1) // 2))
        self.view = view = linked_view(
            space.lonlat[rows],
            fitted.xy,
            color={name: values[rows] for name, values in space.columns.items()},
            hover=None if space.titles is None else [space.titles[i] for i in rows],
            titles=(f"{space.name} ({method})", "Map (Equal Earth)"),
        )
        self.picture.outputs = (
            {"output_type": "display_data", "metadata": {},
             "data": {"text/html": view.to_html(), "text/plain": str(found)}},
        )  # fmt: skip
        shown = "" if len(rows) == n else f"{len(rows):,} of {n:,} places. "
        self.scores.value = f"{shown}{str(found)[0].upper()}{str(found)[1:]}"


def projection_widget(
    sources: Model | str | Path | Space | Mapping[str, Model | str | Path | Space],
    data: PlaceStore | str | Path | None = None,
    rows: int = 5000,
    k: int = 15,
) -> ProjectionWidget:
    """A linked view of UMAP or PCA with live parameters, for one or more spaces.

    Args:
        sources: name -> anything that :func:`space_of` opens, or a :class:`Space`; or one of these alone.
        data: the place store of runs.
        rows: of larger spaces, so many places are drawn at random, so that an answer takes seconds.
        k: how many nearest neighbours the scores count.
    """
    return ProjectionWidget(_spaces(sources, data), rows, k)


def _spaces(
    sources: Model | str | Path | Space | Mapping[str, Model | str | Path | Space],
    data: PlaceStore | str | Path | None,
) -> dict[str, Space]:
    if not isinstance(sources, Mapping):
        one = sources if isinstance(sources, Space) else space_of(sources, data)
        return {one.name: one}
    if not sources:
        raise ValueError("give at least one source")
    return {str(k): v if isinstance(v, Space) else space_of(v, data, str(k)) for k, v in sources.items()}


class PlanetWidget(w.VBox):
    """Ask a model for places: by a click, by a position, or in words. Made by :func:`planet_widget`.

    Attributes:
        architecture: which model is asked. lon, lat: the place, in degrees. words: the question; set ``value`` to ask.
        show: "colours" (principal components), "place" or "words": what is painted; set by the others too.
        message: a Label that says what is painted, or what was wrong. best: Labels of the places that fit best.
        map: the leafmap map. overlay: its painted layer. image: the :class:`geonb.explore.layers.LayerImage` painted.
    """

    def __init__(self, models: Mapping, spaces: Mapping[str, Space], width: int) -> None:
        import leafmap

        from geonb.explore.live import add_live_layer

        self.models, self.spaces, self.width = models, spaces, width
        self._grids: dict = {}
        self._quiet = False
        degrees = {"step": 0.5, "style": WIDE, "layout": w.Layout(width="130px")}
        self.architecture = w.Dropdown(options=list(models), description="architecture", style=WIDE)
        self.show = w.ToggleButtons(options=["colours", "place", "words"], description="paint", style=WIDE)
        self.lon = w.BoundedFloatText(36.8, min=-180, max=180, description="lon", **degrees)
        self.lat = w.BoundedFloatText(-1.3, min=-90, max=90, description="lat", **degrees)
        self.words = w.Text(placeholder="rice terraces", description="words", continuous_update=False, style=WIDE)
        self.message, self.best = w.Label(), w.VBox()
        self.map = leafmap.Map(center=[20, 0], zoom=1)
        self.map.layout.height = "420px"
        self.paint()
        self.overlay = add_live_layer(self.map, self.image)
        self.map.on_interaction(self._clicked)
        self.architecture.observe(self.paint, "value")
        self.show.observe(self.paint, "value")
        for control in (self.lon, self.lat):
            control.observe(lambda _: self._turn_to("place"), "value")
        self.words.observe(lambda _: self._turn_to("words"), "value")
        bar = w.HBox([self.architecture, self.show, self.lon, self.lat, self.words],
                     layout=w.Layout(flex_flow="row wrap"))  # fmt: skip
        super().__init__([bar, self.message, self.map, self.best])

    def _turn_to(self, what: str) -> None:
        if self._quiet:
            return
        if self.show.value == what:
            self.paint()
        else:
            self.show.value = what  # which paints

    def _clicked(self, **event: Any) -> None:
        if event.get("type") != "click":
            return
        lat, lon = event["coordinates"]
        self._quiet = True
        self.lon.value, self.lat.value = (lon + 180) % 360 - 180, min(90, max(-90, lat))  # maps repeat to the sides
        self._quiet = False
        self._turn_to("place")

    def paint(self, _: object = None) -> None:
        """Paint what the controls say; done at every change of theirs."""
        from geonb.explore.layers import LandGrid, layer_of

        name, what = self.architecture.value, self.show.value
        if name not in self._grids:
            self.message.value = f"embedding the land with {name} …"
            self._grids[name] = LandGrid(self.models[name], self.width)
        grid = self._grids[name]
        place = (self.lon.value, self.lat.value)
        asked = {"colours": {}, "place": {"place": place}, "words": {"text": self.words.value}}[what]
        try:
            layer = layer_of(grid.model, "pca" if what == "colours" else "similarity", **asked)
        except ValueError as error:
            self.message.value = str(error)
            return
        self.image = grid.image(layer)
        self.message.value = f"{name}: {self.image.title}"
        if hasattr(self, "overlay"):
            self.overlay.url, self.overlay.name = self.image.data_uri(), escape(self.image.title)
        self.best.children = () if what == "colours" else self._best(name, layer)

    def _best(self, name: str, layer: Any) -> tuple:
        space = self.spaces.get(name)
        if space is None:
            return ()
        values = layer(space.z)[:, 0]
        titles = space.titles or [f"row {i}" for i in range(len(values))]
        return tuple(
            w.Label(f"{values[i]:.3f}  {titles[i]} ({space.lonlat[i, 0]:.2f}, {space.lonlat[i, 1]:.2f})")
            for i in np.argsort(-values, kind="stable")[:NAMED]
        )


def planet_widget(
    models: Model | str | Path | Mapping[str, Model | str | Path],
    data: PlaceStore | str | Path | None = None,
    width: int = 480,
) -> PlanetWidget:
    """A map that answers: click a place or type words, and see where on Earth a model finds it.

    Args:
        models: name -> a run's folder or a loaded model; or one of these alone.
        data: a place store whose places are named among the best; none are without.
        width: of the painted map in pixels; the land is embedded once a model, at about ``width`` squared / 4 places.

    Raises:
        ValueError: no models. ModuleNotFoundError: without leafmap.
    """
    from geonb.model import Model, load

    if not isinstance(models, Mapping):
        models = {models.manifest["architecture"] if isinstance(models, Model) else Path(models).name: models}
    if not models:
        raise ValueError("give at least one model")
    loaded = {str(k): m if isinstance(m, Model) else load(m) for k, m in models.items()}
    spaces = {} if data is None else {k: space_of(m, data, k) for k, m in loaded.items()}
    return PlanetWidget(loaded, spaces, width)


class TrainingWidget(w.VBox):
    """The curves of a run while it is trained. Made by :func:`training_widget`.

    Attributes:
        run: the folder. message: a Label with the last step. picture: the curves, as HTML with a text alternative.
        lines: what ``metrics.jsonl`` holds so far. finished: whether the run is.
    """

    def __init__(self, run: str | Path, seconds: float) -> None:
        self.run, self.seconds, self.finished = Path(run), seconds, False
        self.lines: list[dict] = []
        self._read, self._stop = 0, threading.Event()
        self._thread: threading.Thread | None = None
        self.message, self.picture = w.Label(), w.HTML()
        self.button = w.ToggleButton(False, description="follow", tooltip="read the run's metrics as they come")
        self.button.observe(lambda change: self.start() if change["new"] else self.stop(), "value")
        super().__init__([w.HBox([self.button, self.message]), self.picture])
        self.update()

    def update(self) -> int:
        """Read what was written since; returns how many lines were new. A line that is half written waits."""
        path = self.run / "metrics.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if size < self._read:  # the run was started anew
            self._read, self.lines = 0, []
        new = []
        if size > self._read:
            with path.open("rb") as file:
                file.seek(self._read)
                whole = file.read().rpartition(b"\n")[0]
            self._read += len(whole) + 1 if whole else 0
            new = [json.loads(line) for line in whole.splitlines() if line.strip()]
            self.lines += new
        done = (self.run / "model.safetensors").exists() and (self.run / "manifest.json").exists()
        if new or done != self.finished or not self.message.value:
            self.finished = done
            self._draw()
        return len(new)

    def start(self) -> None:
        """Follow the run in a thread, until it is finished or :meth:`stop` is called."""
        if self._thread is None or not self._thread.is_alive():
            self._stop.clear()
            self._thread = threading.Thread(target=self._follow, daemon=True)
            self._thread.start()
        self.button.value = True

    def stop(self) -> None:
        """Follow it no more."""
        self._stop.set()
        self.button.value = False

    def _follow(self) -> None:
        while not self._stop.is_set():
            self.update()
            if self.finished:
                break
            self._stop.wait(self.seconds)
        self.button.value = False

    def _draw(self) -> None:
        if not self.lines:
            self.message.value = f"{self.run}: nothing written yet"
            self.picture.value = ""
            return
        last = self.lines[-1]
        text = f"step {last['step']:,}, loss {last['loss']:.3f}"
        if "held_out" in last:
            text += f", held out {last['held_out']:.3f}"
        if "places_per_s" in last:
            text += f", {last['places_per_s']:,.0f} places a second"
        self.message.value = f"{self.run.name}: {text}{', finished' if self.finished else ''}"
        self.picture.value = _curves(self.lines, f"Training of {self.run.name} so far: {text}.").html


def _curves(lines: list[dict], alt: str) -> Figure:
    from matplotlib.figure import Figure  # not of pyplot, which is for one thread alone

    from geonb.explore.figures import PALETTE, themed

    fig = Figure(figsize=(6, 2.6))
    ax = fig.subplots()
    names = ["loss", *sorted({k for line in lines for k in line if k.startswith("held_out/")})]
    for colour, name in zip(PALETTE, names, strict=False):
        points = [(line["step"], line[name]) for line in lines if name in line]
        label = "training loss" if name == "loss" else f"held out, {name.split('/')[1]}".replace("$", r"\$")
        style, marker = "--" if name == "loss" else "-", "o" if len(points) == 1 else None
        ax.plot(*zip(*points, strict=True), color=colour, label=label, ls=style, marker=marker)
    ax.set(xlabel="optimiser step", ylabel="nats")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return themed(fig, alt)


def training_widget(run: str | Path, seconds: float = 2.0, follow: bool = True) -> TrainingWidget:
    """Live curves of a run, from its ``metrics.jsonl``; the training may run in this kernel or elsewhere.

    Args:
        run: the folder, which need not be there yet.
        seconds: between two looks.
        follow: begin at once, in a thread; else press the button, or call ``update``.
    """
    widget = TrainingWidget(run, seconds)
    if follow and not widget.finished:
        widget.start()
    return widget

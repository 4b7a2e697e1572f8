"""Look at embedding spaces: figures, maps, projections, linked views. Heavy libraries load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "add_layer": "layers",
    "add_live_layer": "live",
    "ask_map": "planet",
    "coverage_map": "figures",
    "embed_queries": "planet",
    "error_colours": "layers",
    "explore_page": "page",
    "fit_projection": "projection",
    "frame_slider": "frames",
    "image_grid": "figures",
    "LandGrid": "layers",
    "layer_of": "layers",
    "linked_view": "linked",
    "LinkedView": "linked",
    "live_map": "live",
    "offline_map": "maps",
    "planet_view": "planet",
    "planet_widget": "widgets",
    "PlanetView": "planet",
    "probe_figure": "report",
    "project": "projection",
    "projection_scores": "projection",
    "projection_view": "frames",
    "projection_widget": "widgets",
    "report_page": "report",
    "scatter_map": "figures",
    "stability": "projection",
    "to_geoparquet": "export",
    "to_geotiff": "export",
    "training_widget": "widgets",
    "vocabulary": "planet",
    "zonal_kernel": "planet",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"geonb.explore.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'geonb.explore' has no attribute {name!r}")

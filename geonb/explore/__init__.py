"""Look at embedding spaces: figures, maps, projections, linked views. Each part loads when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "export": ("to_geoparquet", "to_geotiff"),
    "figures": ("coverage_map", "image_grid", "scatter_map"),
    "frames": ("projection_view",),
    "linked": ("linked_view",),
    "maps": ("add_layer", "layer_of", "live_map", "offline_map"),
    "page": ("explore_page",),
    "planet": ("ask_map", "embed_queries", "planet_view", "vocabulary", "zonal_kernel"),
    "projection": ("fit_projection", "project", "projection_scores", "stability"),
    "report": ("probe_figure", "report_page"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"geonb.explore.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'geonb.explore' has no attribute {name!r}")

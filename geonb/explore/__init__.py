"""Look at embedding spaces: figures, maps, projections, linked views."""

from geonb.explore.export import to_geoparquet, to_geotiff
from geonb.explore.figures import coverage_map, image_grid, scatter_map
from geonb.explore.frames import projection_view
from geonb.explore.linked import linked_view
from geonb.explore.maps import add_layer, layer_of, live_map, offline_map
from geonb.explore.page import explore_page
from geonb.explore.planet import ask_map, embed_queries, planet_view, vocabulary, zonal_kernel
from geonb.explore.projection import fit_projection, project, projection_scores, stability
from geonb.explore.report import probe_figure, report_page

__all__ = [
    "add_layer", "ask_map", "coverage_map", "embed_queries", "explore_page", "fit_projection", "image_grid", "layer_of",
    "linked_view", "live_map", "offline_map", "planet_view", "probe_figure", "project", "projection_scores",
    "projection_view", "report_page", "scatter_map", "stability", "to_geoparquet", "to_geotiff", "vocabulary",
    "zonal_kernel",
]  # fmt: skip

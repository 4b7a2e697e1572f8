"""Look at embedding spaces: figures, maps, projections, linked views."""

from geonb.explore.export import to_geotiff
from geonb.explore.figures import image_grid, scatter_map
from geonb.explore.frames import projection_view
from geonb.explore.linked import linked_view
from geonb.explore.maps import add_layer, add_points, land_centres, offline_map
from geonb.explore.page import explore_page
from geonb.explore.planet import planet_view, vocabulary
from geonb.explore.projection import fit_projection, project, projection_scores, stability
from geonb.explore.report import report_page

__all__ = [
    "add_layer", "add_points", "explore_page", "fit_projection", "image_grid",
    "land_centres", "linked_view", "offline_map", "planet_view", "project", "projection_scores", "projection_view",
    "report_page", "scatter_map", "stability", "to_geotiff", "vocabulary",
]  # fmt: skip

"""How rasterio says that it cannot read a file."""

from __future__ import annotations


def raster_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """What rasterio raises for a damaged or hostile file: its own errors, some of GDAL's, and names that are no UTF-8.

    GDAL's classes pass through some of its calls, and ``CRSError`` is no ``RasterioError``. ``others`` are added.
    """
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import CRSError, RasterioError

    return RasterioError, CPLE_BaseError, CRSError, UnicodeError, *others

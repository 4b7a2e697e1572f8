"""Reading rasters with rasterio: settings for https addresses, and errors of damaged files."""

from __future__ import annotations

import re

# For single windows of remote cloud-optimised GeoTIFFs; the retries cover HTTP 429 and 5xx.
REMOTE = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif,.tiff",
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/http",  # else one failure of a file is remembered
    "GDAL_HTTP_MAX_RETRY": "5",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_TIMEOUT": "120",
}


def raster_errors() -> tuple[type[Exception], ...]:
    """List what rasterio raises for a damaged file."""
    from affine import AffineError
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import CRSError, RasterioError

    # names that are not UTF-8, and sizes that no machine has
    return RasterioError, CPLE_BaseError, CRSError, AffineError, UnicodeError, MemoryError


def may_pass(error: Exception) -> bool:
    """Tell whether reading may succeed later: the network or the server failed, not the file."""
    return bool(re.search(r"CURL error|HTTP response code: (429|5\d\d)|timed out", str(error), re.IGNORECASE))

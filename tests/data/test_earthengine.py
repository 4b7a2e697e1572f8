"""Earth Engine: the graph in the client's own terms, its pixels on made scenes, and what goes wrong.

The pixels come from a stand-in for the module ``ee``, whose methods have their documented meaning. The live service, its
data and its limits are not tested.
"""

import io
import json
import sys
from dataclasses import dataclass
from datetime import date
from types import SimpleNamespace

import ee
import httplib2
import numpy as np
import pytest
from ee import apitestcase

from geonb.data.sentinel2 import BANDS, chip_grid, utm_epsg
from geonb.data.sources import earthengine as module
from geonb.data.sources.earthengine import connect, estimate, from_earthengine
from geonb.data.store import check_store

YEAR = ("2024-01-01", "2025-01-01")
SIZE = 16
POINTS = np.array([[13.4, 52.5], [-60.0, -3.1], [179.9999, -16.8], [-179.9999, -16.8], [151.2, -33.9]])


FULL = np.ma.zeros((SIZE, SIZE))


def day_ms(day):
    return (date.fromisoformat(day) - date(1970, 1, 1)).days * 86_400_000


class Image:
    """Bands by name, masked arrays of one size; properties."""

    def __init__(self, bands, properties=None):
        self.bands, self.properties = (
            (bands.bands, bands.properties) if isinstance(bands, Image) else (bands, properties)
        )

    def each(self, function):
        return Image({name: function(band) for name, band in self.bands.items()}, self.properties)

    @staticmethod
    def constant(value):
        return Image({str(i): FULL + v for i, v in enumerate(value if isinstance(value, list) else [value])}, {})

    def select(self, names):
        return Image({n: self.bands[n] for n in ([names] if isinstance(names, str) else names)}, self.properties)

    def rename(self, names):
        names = [names] if isinstance(names, str) else names
        return Image(dict(zip(names, self.bands.values(), strict=True)), self.properties)

    def addBands(self, images):
        return Image(
            self.bands | {name: band for image in images for name, band in image.bands.items()}, self.properties
        )

    def reduce(self, reducer):
        return Image({reducer: getattr(np.ma.stack(list(self.bands.values())), reducer)(0)}, self.properties)

    def updateMask(self, mask):
        [known] = mask.bands.values() if isinstance(mask, Image) else [FULL + mask]
        return self.each(lambda band: np.ma.masked_where(known.filled(0) == 0, band))

    def unmask(self, value, sameFootprint):
        assert sameFootprint is False
        return self.each(lambda band: FULL + band.filled(value))

    def metadata(self, name):
        return Image({name: FULL + self.properties[name]}, self.properties)

    def reduceRegion(self, reducer, region, scale, crs):
        assert (reducer, scale, crs) == ("mean", 10, region[2])
        return {name: band.mean() for name, band in self.bands.items()}

    def set(self, name, value):
        return Image(self.bands, self.properties | {name: value})

    def __getattr__(self, name):
        return lambda *values: self.each(lambda band: OF_PIXELS[name](band, *values))


OF_PIXELS = {
    "gte": lambda band, value: (band >= value) * 1.0, "multiply": np.multiply, "divide": np.divide, "floor": np.floor,
    "round": lambda band: np.floor(band + 0.5), "toUint16": lambda band: np.trunc(band).clip(0, 65535),
    "mask": lambda band: FULL + ~np.ma.getmaskarray(band),
}  # fmt: skip


class ImageCollection:
    def __init__(self, images):
        self.images = images  # or the name of a collection

    def filter(self, test):
        return ImageCollection([image for image in self.images if test(image)])

    def filterBounds(self, region):
        assert self.images == module.IMAGES
        return ImageCollection([scene.image(*region[:2]) for scene in SCENES])

    def filterDate(self, start, end):
        return self.filter(lambda image: day_ms(start) <= image.properties["system:time_start"] < day_ms(end))

    def linkCollection(self, other, names):
        assert (other.images, names) == (module.CLOUDS, ["cs_cdf"])
        return self.map(lambda image: image.addBands([Image({"cs_cdf": image.properties["score"]}, {})]))

    def map(self, function):
        return ImageCollection([function(image) for image in self.images])

    def sort(self, key, ascending):
        return ImageCollection(sorted(self.images, key=lambda image: image.properties[key], reverse=not ascending))

    def stacked(self, function):
        bands = {n: np.ma.stack([image.bands[n] for image in self.images]) for n in self.images[0].bands}
        return Image({n: function(stack) for n, stack in bands.items()}, {})

    def __getattr__(self, name):
        return lambda *values: OF_COLLECTIONS[name](self, *values)


OF_COLLECTIONS = {
    "select": lambda self, name: self.map(lambda image: image.select(name)), "size": lambda self: len(self.images),
    "merge": lambda self, other: ImageCollection(self.images + other.images), "first": lambda self: self.images[0],
    "median": lambda self: self.stacked(lambda stack: np.ma.median(stack, 0)),
    "count": lambda self: self.stacked(lambda stack: FULL + stack.count(0)),
}  # fmt: skip


def rectangle(bounds, proj, geodesic):
    west, south, east, north = bounds
    assert (east - west, north - south, geodesic) == (10 * SIZE, 10 * SIZE, False)
    step = 10 * np.arange(SIZE) + 5
    return *np.meshgrid(west + step, north - step), proj


@pytest.fixture
def service(monkeypatch):
    """The requests for pixels, and the errors to come."""
    played = SimpleNamespace(asked=[], faults=[])

    def compute(request):
        played.asked.append(request)
        if played.faults and (fault := played.faults.pop(0)):
            raise ee.EEException(fault)
        found = np.zeros((SIZE, SIZE), [(name, "<u2") for name in request["bandIds"]])
        for name in found.dtype.names:
            found[name] = request["expression"].bands[name].filled(0)
        return found

    fake = SimpleNamespace(
        Image=Image, ImageCollection=ImageCollection, EEException=ee.EEException,
        Filter=SimpleNamespace(lte=lambda name, value: lambda image: image.properties[name] <= value),
        Geometry=SimpleNamespace(Rectangle=rectangle), Reducer=SimpleNamespace(min=lambda: "min", mean=lambda: "mean"),
        data=SimpleNamespace(is_initialized=lambda: True, computePixels=compute),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "ee", fake)
    return played


@dataclass
class Scene:
    """A scene over the whole world; functions of easting and northing say how clear it is, and where it is."""

    day: str
    level: int
    cloud: float = 10
    clear: object = lambda x, y: np.full(x.shape, 0.9)  # None: no Cloud Score+
    covers: object = lambda x, y: np.ones(x.shape, bool)
    whole: object = lambda x, y: np.ones(x.shape, bool)  # elsewhere one band is missing

    def values(self, x, y):
        texture = (x // 10 + 3 * (y // 10)) % 50
        return np.stack([self.level + 7 * number + texture for number in range(len(BANDS))])

    def image(self, x, y):
        missing = ~self.covers(x, y)
        score = np.ma.masked_where(missing, self.clear(x, y)) if self.clear else np.ma.masked_all(x.shape)
        properties = {
            "system:time_start": day_ms(self.day) + 37_000_000,
            "CLOUDY_PIXEL_PERCENTAGE": self.cloud,
            "score": score,
        }
        bands = zip(BANDS, self.values(x, y), strict=True)
        image = Image({name: np.ma.masked_where(missing, band) for name, band in bands}, properties)
        image.bands["B9"] = np.ma.masked_where(~self.whole(x, y), image.bands["B9"])
        return image


SCENES = [
    Scene("2023-12-31", 100),  # before the period
    Scene("2024-02-01", 1000, cloud=95),  # too cloudy
    Scene("2024-03-01", 1500, clear=None),  # without a score
    Scene("2024-05-05", 2000, clear=lambda x, y: np.where(x % 40 < 20, 0.95, 0.1)),
    Scene("2024-06-06", 2501, clear=lambda x, y: np.full(x.shape, 0.8)),
    Scene("2024-07-07", 3000, clear=lambda x, y: np.full(x.shape, 0.99), covers=lambda x, y: y % 80 < 40),
    Scene("2024-08-08", 3500, clear=lambda x, y: np.full(x.shape, 0.7), whole=lambda x, y: y % 60 < 50),
    Scene("2025-01-01", 4000),  # the day after the last
]


def make(out, where=POINTS, **options):
    return from_earthengine(out, where, **{"period": YEAR, "size": SIZE, "workers": 3} | options)


def eligible(grid):
    """The scenes of the year on a grid, without any graph: day, bands (12, n, n), Cloud Score+."""
    x, y, _ = rectangle(grid.boundingbox, grid.crs, False)
    for scene in SCENES:
        if YEAR[0] <= scene.day < YEAR[1] and scene.cloud <= 80:
            inside = scene.covers(x, y) & scene.whole(x, y)
            score = np.where(inside, scene.clear(x, y), 0) if scene.clear else np.zeros(x.shape)
            yield scene.day, scene.values(x, y) * inside, score


def test_the_clearest_chip_is_the_scene_with_the_best_score_and_has_its_date(service, tmp_path):
    store = make(tmp_path / "store")
    assert check_store(store.path) and np.allclose(store.lonlat, POINTS)
    for row, point in enumerate(POINTS):
        day, bands, _ = max(eligible(chip_grid(*point, SIZE)), key=lambda scene: scene[2].mean())
        assert day == "2024-06-06"  # the scene of 7 July has better pixels, but not all of them
        assert (store.images("sentinel2", [row])[0] == bands).all() and store.image_dates("sentinel2", [row])[0] == day
    assert (store.column("scenes") == 5).all() and (store.column("clear_share") == 1).all()
    assert (store.column("cloud_score") == 0.8).all() and (store.column("epsg") == utm_epsg(POINTS)).all()


def test_the_median_chip_is_the_median_of_the_clear_views_of_each_pixel(service, tmp_path):
    store = make(tmp_path / "store", method="median")
    for row, point in enumerate(POINTS):
        _, stack, scores = (np.stack(part) for part in zip(*eligible(chip_grid(*point, SIZE)), strict=True))
        clear = scores >= 0.6
        expected = np.nanmedian(np.where(clear[:, None], stack, np.nan), 0)
        assert (store.images("sentinel2", [row])[0] == np.floor(expected + 0.5)).all()
        assert store.column("clear_views")[row] == pytest.approx(clear.sum(0).mean(), abs=0.01)
        assert len(np.unique(clear.sum(0))) > 1  # pixels differ in how often they were seen


@pytest.mark.parametrize("method", module.METHODS)
def test_the_client_takes_the_graph_and_the_request(monkeypatch, method):
    """It builds them with its own list of functions, but knows neither bands nor collections."""
    asked, stream = [], io.BytesIO()
    np.save(stream, np.zeros((SIZE, SIZE), [(name, "<u2") for name in BANDS + module.EXTRA]))

    def request(uri, method, body, **_):
        asked.append(json.loads(body))
        return httplib2.Response({"status": 200}), stream.getvalue()

    monkeypatch.setattr(ee.data, "_install_cloud_api_resource", lambda: None)
    case = apitestcase.ApiTestCase()
    case.setUp()
    with apitestcase.UsingCloudApi(mock_http=SimpleNamespace(request=request)):
        assert "no scene" in module._read_chip(ee, *POINTS[0], SIZE, YEAR, method)
    case.tearDown()
    assert asked[0]["bandIds"] == [*BANDS, "views", "score", "day", "scenes"] and asked[0]["fileFormat"] == "NPY"
    move = {"scaleX": 10, "shearX": 0, "translateX": 391310, "shearY": 0, "scaleY": -10, "translateY": 5817940}
    size = {"width": 16, "height": 16}
    assert asked[0]["grid"] == {"dimensions": size, "crsCode": "EPSG:32633", "affineTransform": move}
    assert asked[0]["workloadTag"] == "geonb-chips"
    graph = json.dumps(asked[0]["expression"])
    for name in ("COPERNICUS/S2_SR_HARMONIZED", "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED", "CLOUDY_PIXEL_PERCENTAGE"):
        assert f'"{name}"' in graph


def test_where_there_is_no_clear_scene_there_is_a_reason_instead(service, tmp_path):
    for start, end, reason in (
        ("2024-01-15", "2024-02-15", "no scene in the period, or all too cloudy"),
        ("2024-02-15", "2024-04-01", "less than 90% of the chip"),  # no Cloud Score+
        ("2024-05-01", "2024-06-01", "less than 90% of the chip"),
    ):
        with pytest.raises(ValueError, match=reason):
            make(tmp_path / start, POINTS[:1], period=(start, end))


def test_wrong_options_and_too_many_requests_are_refused_before_anything_is_asked(service, tmp_path):
    for options in ({"period": ("2024-01-01", "2024-01-01")}, {"method": "best"}, {"max_requests": 4}):
        with pytest.raises(ValueError):
            make(tmp_path / "store", **options)
    assert not service.asked and not list(tmp_path.iterdir())


def test_a_refusal_stops_with_what_is_done_kept_and_a_chip_that_is_too_much_is_left_out(service, tmp_path):
    service.faults = [None, None, "Project is not registered"]
    with pytest.raises(ValueError, match="gave no chip: Project is not registered(?s:.*)[23] of 5 places are done"):
        make(tmp_path / "store", workers=1)
    service.asked.clear()
    assert len(make(tmp_path / "store", workers=1)) == 5 and len(service.asked) in (2, 3)
    service.faults = ["User memory limit exceeded."]
    store = make(tmp_path / "less", POINTS[:2], workers=1)
    assert len(store) == 1 and "ran out of memory" in str(store.manifest["made"]["left_out"])


@pytest.mark.parametrize("credentials", ["[]", "null", "no JSON"])
def test_damaged_credentials_lead_to_the_steps_that_make_new_ones(tmp_path, monkeypatch, credentials):
    monkeypatch.setattr(ee.oauth, "get_credentials_path", lambda: str(tmp_path / "credentials"))
    (tmp_path / "credentials").write_text(credentials)
    with pytest.raises(ValueError, match="(?s)credentials is damaged.*do step 2.*2. get credentials"):
        connect("project")


def test_an_answer_of_another_shape_stops_in_one_line_with_its_place(service, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["ee"].data, "computePixels", lambda request: np.zeros((SIZE, SIZE)))
    with pytest.raises(ValueError, match=r"row 0 at \(13.4, 52.5\): no chip could be made \(IndexError"):
        from_earthengine(tmp_path / "s", POINTS[:1], period=YEAR, size=SIZE)


def test_the_estimate_adds_up():
    text = estimate(1000, 64, YEAR)
    for part in ("1,000 requests", "131.1 MB", "3.1 minutes", "74 scenes", "352 million", "geonb-chips"):
        assert part in text
    assert "3,940 million" in estimate(1000, 64, YEAR, method="median")


def test_the_project_of_the_environment_and_the_limits_reach_the_client(monkeypatch):
    called = []
    monkeypatch.setenv("GEONB_EE_PROJECT", "from-the-environment")
    monkeypatch.setattr(ee, "Initialize", lambda **options: called.append(options))
    monkeypatch.setattr(ee.data, "setDeadline", called.append)
    monkeypatch.setattr(ee.data, "setMaxRetries", called.append)
    assert connect() is ee
    assert called == [{"project": "from-the-environment", "url": module.HIGH_VOLUME}, 300_000, 5]

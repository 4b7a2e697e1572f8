"""Earth Engine: the graph, evaluated on made scenes, the request, the chip, and what goes wrong.

The service is played by a stand-in behind the client's own transport: it evaluates the graphs that it is sent, by the
documented meaning of each function (:class:`Evaluator`). The client builds graphs with its own list of algorithms. The
live service, its data and its limits are not tested.
"""

import io
import json
from dataclasses import dataclass, field
from datetime import date

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


# --- a service that evaluates graphs ------------------------------------------------------------------


def day_ms(day: str) -> int:
    return (date.fromisoformat(day) - date(1970, 1, 1)).days * 86_400_000 + 37_000_000


@dataclass
class Scene:
    """A scene over the whole world; functions of easting and northing say what it shows, where, and how clearly."""

    day: str
    level: int
    cloud: float = 10
    clear: object = lambda x, y: np.full(x.shape, 0.9)  # None: no Cloud Score+
    covers: object = lambda x, y: np.ones(x.shape, bool)

    def band(self, name, x, y):
        return self.level + 7 * BANDS.index(name) + (x // 10 + 3 * (y // 10)) % 50


SCENES = [
    Scene("2023-12-31", 100),  # before the period
    Scene("2024-02-01", 1000, cloud=95),  # too cloudy
    Scene("2024-03-01", 1500, clear=None),  # without a score
    Scene("2024-05-05", 2000, clear=lambda x, y: np.where(x % 40 < 20, 0.95, 0.1)),
    Scene("2024-06-06", 2501, clear=lambda x, y: np.full(x.shape, 0.8)),
    Scene("2024-07-07", 3000, clear=lambda x, y: np.full(x.shape, 0.99), covers=lambda x, y: y % 80 < 40),
    Scene("2024-08-08", 3500, clear=lambda x, y: np.full(x.shape, 0.7)),
    Scene("2025-01-01", 4000),  # the day after the last
]


@dataclass
class Image:
    bands: dict  # name -> (values, mask)
    inside: np.ndarray  # its footprint
    properties: dict = field(default_factory=dict)

    def map(self, values=lambda v: v, mask=lambda m: m):
        return Image({n: (values(v), mask(m)) for n, (v, m) in self.bands.items()}, self.inside, dict(self.properties))

    def only(self):
        ((values, mask),) = self.bands.values()
        return values, mask


def rename(input, names):
    assert len(names) == len(input.bands)
    return Image(dict(zip(names, input.bands.values(), strict=True)), input.inside, input.properties)


def add_bands(dstImg, srcImg):
    assert not dstImg.bands.keys() & srcImg.bands.keys()
    return Image(dstImg.bands | srcImg.bands, dstImg.inside, dstImg.properties)


def update_mask(image, mask):
    values, known = mask.only()
    return image.map(mask=lambda m: m & known & (values > 0))


def combined(image1, image2, function):
    other, known = image2.only()
    return image1.map(lambda v: function(v, other).astype(float), lambda m: m & known)


def stacked(collection, function):
    pairs = {n: [np.stack([image.bands[n][i] for image in collection]) for i in (0, 1)] for n in collection[0].bands}
    bands = {name: function(values.astype(float), masks) for name, (values, masks) in pairs.items()}
    return Image(bands, np.ones_like(collection[0].inside))


def median(values, masks):
    some = masks.any(0)
    return np.nanmedian(np.where(masks | ~some, values, np.nan), 0), some


def reduce_region(image, reducer, geometry, scale, crs):
    assert (reducer, scale) == ("mean", 10)
    return {n: float(v[m & geometry].mean()) if (m & geometry).any() else None for n, (v, m) in image.bands.items()}


#: What each function of the graphs means, by its documentation; names of arguments are those of the service.
FUNCTIONS = {
    "ImageCollection.fromImages": lambda images: images,
    "ImageCollection.merge": lambda collection1, collection2: collection1 + collection2,
    "Collection.filter": lambda collection, filter: [image for image in collection if filter(image)],
    "Collection.map": lambda collection, baseAlgorithm: [baseAlgorithm(image) for image in collection],
    "Collection.size": lambda collection: len(collection),
    "Collection.limit": lambda collection, key, ascending: sorted(
        collection, key=lambda image: image.properties[key], reverse=not ascending),
    "Collection.first": lambda collection: collection[0],
    "Projection": lambda crs: crs,
    "Feature": lambda geometry: geometry,
    "Filter.intersects": lambda leftField, rightValue: lambda image: bool((image.inside & rightValue).any()),
    "DateRange": lambda start, end: (day_ms(start) - 37_000_000, day_ms(end) - 37_000_000),
    "Filter.dateRangeContains": lambda leftValue, rightField: (
        lambda image: leftValue[0] <= image.properties[rightField] < leftValue[1]),
    "Filter.greaterThan": lambda leftField, rightValue: lambda image: image.properties[leftField] > rightValue,
    "Filter.not": lambda filter: lambda image: not filter(image),
    "Image.select": lambda input, bandSelectors: Image(
        {n: input.bands[n] for n in bandSelectors}, input.inside, input.properties),
    "Image.rename": rename,
    "Image.addBands": add_bands,
    "Image.mask": lambda image: Image(
        {n: (m.astype(float), np.ones_like(m)) for n, (_, m) in image.bands.items()}, image.inside),
    "Image.reduce": lambda image, reducer: Image(
        {reducer: (getattr(np.stack([v for v, _ in image.bands.values()]), reducer)(0),
                   np.all([m for _, m in image.bands.values()], 0))}, image.inside),
    "Reducer.min": lambda: "min",
    "Reducer.mean": lambda: "mean",
    "Image.updateMask": update_mask,
    "Image.gte": lambda image1, image2: combined(image1, image2, np.greater_equal),
    "Image.multiply": lambda image1, image2: combined(image1, image2, np.multiply),
    "Image.divide": lambda image1, image2: combined(image1, image2, np.divide),
    "Image.floor": lambda value: value.map(np.floor),
    "Image.round": lambda value: value.map(lambda v: np.floor(v + 0.5)),
    "Image.toUint16": lambda value: value.map(lambda v: np.clip(np.trunc(v), 0, 65535)),
    "Image.reduceRegion": reduce_region,
    "Dictionary.get": lambda dictionary, key: dictionary[key],
    "Element.set": lambda object, key, value: Image(object.bands, object.inside, object.properties | {key: value}),
    "reduce.median": lambda collection: stacked(collection, median),
    "reduce.count": lambda collection: stacked(collection, lambda v, m: (m.sum(0).astype(float), np.ones_like(m[0]))),
}  # fmt: skip


class Evaluator:
    """A graph, evaluated on the pixels of one request."""

    def __init__(self, expression: dict, grid: dict):
        self.values, self.known = expression["values"], {}
        move, size = grid["affineTransform"], grid["dimensions"]
        assert (move["scaleX"], move["scaleY"], move["shearX"], move["shearY"]) == (10, -10, 0, 0)
        rows, columns = np.mgrid[: size["height"], : size["width"]]
        self.crs, self.everywhere = grid["crsCode"], np.ones(rows.shape, bool)
        self.x, self.y = move["translateX"] + 10 * columns + 5, move["translateY"] - 10 * rows - 5
        self.image = self.value({"valueReference": expression["result"]}, {})

    def value(self, node, env):
        ((kind, content),) = node.items()
        match kind:
            case "constantValue":
                return content
            case "valueReference":
                if env:
                    return self.value(self.values[content], env)
                if content not in self.known:
                    self.known[content] = self.value(self.values[content], env)
                return self.known[content]
            case "argumentReference":
                return env[content]
            case "arrayValue":
                return [self.value(v, env) for v in content["values"]]
            case "functionDefinitionValue":
                names, body = content["argumentNames"], {"valueReference": content["body"]}
                return lambda *a: self.value(body, env | dict(zip(names, a, strict=True)))
        arguments = {name: self.value(v, env) for name, v in content["arguments"].items()}
        name = content["functionName"]
        return FUNCTIONS[name](**arguments) if name in FUNCTIONS else getattr(self, name.split(".")[1])(**arguments)

    def load(self, id):
        images = []
        for number, scene in enumerate(SCENES):
            inside = scene.covers(self.x, self.y)
            if id == module.IMAGES:
                bands = {n: (scene.band(n, self.x, self.y).astype(float), inside) for n in BANDS}
            elif scene.clear is None:
                continue
            else:
                assert id == module.CLOUDS
                bands = {n: (scene.clear(self.x, self.y), inside) for n in ("cs", "cs_cdf")}
            properties = {"system:index": f"S{number}", "system:time_start": day_ms(scene.day)}
            images.append(Image(bands, inside, properties | {"CLOUDY_PIXEL_PERCENTAGE": scene.cloud}))
        return images

    def Rectangle(self, coordinates, crs, geodesic):
        assert crs == self.crs and geodesic is False
        west, south, east, north = coordinates
        return (self.x > west) & (self.x < east) & (self.y > south) & (self.y < north)

    def linkCollection(self, input, imageCollection, linkedBands):
        found = [i for i in imageCollection if i.properties["system:index"] == input.properties["system:index"]]
        nothing = (np.zeros(self.x.shape), ~self.everywhere)
        new = {n: found[0].bands[n] if found else nothing for n in linkedBands}
        return Image(input.bands | new, input.inside, input.properties)

    def constant(self, value):
        names = [f"constant_{i}" for i in range(len(value))] if isinstance(value, list) else ["constant"]
        values = value if isinstance(value, list) else [value]
        bands = {n: (np.full(self.x.shape, float(v)), self.everywhere) for n, v in zip(names, values, strict=True)}
        return Image(bands, self.everywhere)

    def metadata(self, image, property):
        return rename(self.constant(image.properties[property]), [property])

    def unmask(self, input, value, sameFootprint):
        filling, _ = value.only()
        where = input.inside if sameFootprint else self.everywhere
        bands = {n: (np.where(m, v, filling), m | where) for n, (v, m) in input.bands.items()}
        return Image(bands, where, input.properties)


class Service:
    """What answers the client's requests for pixels: status and body, from the graph or as told."""

    def __init__(self):
        self.asked, self.faults = [], []

    def request(self, uri, method="GET", body=None, headers=None, **_):
        assert method == "POST" and uri.split("?")[0].endswith("/image:computePixels")
        self.asked.append(json.loads(body))
        if self.faults and (fault := self.faults.pop(0)):
            status, message = fault
            answer = json.dumps({"error": {"code": status, "message": message}}).encode()
            return httplib2.Response({"status": status, "content-type": "application/json"}), answer
        image = Evaluator(self.asked[-1]["expression"], self.asked[-1]["grid"]).image
        found = np.zeros(image.inside.shape, [(name, "<u2") for name in self.asked[-1]["bandIds"]])
        for name in found.dtype.names:
            values, mask = image.bands[name]
            found[name] = np.where(mask, values, 0)
        stream = io.BytesIO()
        np.save(stream, found)
        return httplib2.Response({"status": 200}), stream.getvalue()


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setattr(ee.data, "_install_cloud_api_resource", lambda: None)
    monkeypatch.setattr("googleapiclient.http._sleep_before_retry", lambda *_: None, raising=False)
    monkeypatch.setattr("googleapiclient.http.time.sleep", lambda seconds: None)
    case, played = apitestcase.ApiTestCase(), Service()
    case.setUp()
    with apitestcase.UsingCloudApi(mock_http=played):
        yield played
    case.tearDown()


def make(out, where=POINTS, **options):
    return from_earthengine(out, where, **{"period": YEAR, "size": SIZE, "workers": 3} | options)


# --- chips --------------------------------------------------------------------------------------------


def eligible(grid):
    """The scenes of the year on a grid, without any graph: day, bands (12, n, n), Cloud Score+."""
    west, _, _, north = grid.boundingbox
    step = 10 * np.arange(grid.shape[0]) + 5
    x, y = np.meshgrid(west + step, north - step)
    for scene in SCENES:
        if YEAR[0] <= scene.day < YEAR[1] and scene.cloud <= 80:
            inside = scene.covers(x, y)
            score = np.where(inside, scene.clear(x, y), 0) if scene.clear else np.zeros(x.shape)
            yield scene.day, np.stack([scene.band(name, x, y) for name in BANDS]) * inside, score


def test_the_clearest_chip_is_the_scene_with_the_best_score_and_has_its_date(service, tmp_path):
    store = make(tmp_path / "store")
    assert check_store(store.path) and np.allclose(store.lonlat, POINTS)
    for row, point in enumerate(POINTS):
        day, bands, _ = max(eligible(chip_grid(*point, SIZE)), key=lambda scene: scene[2].mean())
        assert day == "2024-06-06"  # the scene of 7 July has better pixels, but not all of them
        assert (store.images([row])[0] == bands).all() and store.image_dates([row])[0] == day
    assert (store.column("scenes") == 5).all() and (store.column("clear_share") == 1).all()
    assert (store.column("cloud_score") == 0.8).all() and (store.column("epsg") == utm_epsg(POINTS)).all()


def test_the_median_chip_is_the_median_of_the_clear_views_of_each_pixel(service, tmp_path):
    store = make(tmp_path / "store", method="median")
    for row, point in enumerate(POINTS):
        _, stack, scores = (np.stack(part) for part in zip(*eligible(chip_grid(*point, SIZE)), strict=True))
        clear = scores >= 0.6
        expected = np.nanmedian(np.where(clear[:, None], stack, np.nan), 0)
        assert (store.images([row])[0] == np.floor(expected + 0.5)).all()
        assert store.column("clear_views")[row] == pytest.approx(clear.sum(0).mean(), abs=0.01)
        assert len(np.unique(clear.sum(0))) > 1  # pixels differ in how often they were seen


def test_the_request_names_collections_bands_grid_and_limits(service, tmp_path):
    """The client does not know bands and collections: a wrong name would pass it."""
    make(tmp_path / "store", POINTS[:1])
    (asked,) = service.asked
    assert asked["bandIds"] == [*BANDS, "views", "score", "day", "scenes"] and asked["fileFormat"] == "NPY"
    assert asked["workloadTag"] == "geonb-chips"
    assert asked["grid"] == {
        "dimensions": {"width": 16, "height": 16}, "crsCode": "EPSG:32633",
        "affineTransform": {"scaleX": 10, "shearX": 0, "translateX": 391310, "shearY": 0, "scaleY": -10, "translateY": 5817940},
    }  # fmt: skip
    text = json.dumps(asked["expression"])
    for part in ("COPERNICUS/S2_SR_HARMONIZED", "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED", "cs_cdf", *YEAR, "6000"):
        assert part in text


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"period": ("2024-01-15", "2024-02-15")}, "no scene in the period, or all too cloudy"),
        ({"period": ("2024-02-15", "2024-04-01")}, "less than 90% of the chip"),  # no Cloud Score+
        ({"period": ("2024-05-01", "2024-06-01")}, "less than 90% of the chip"),
    ],
)
def test_where_there_is_no_clear_scene_there_is_a_reason_instead(service, tmp_path, options, reason):
    with pytest.raises(ValueError, match=reason):
        make(tmp_path / "store", POINTS[:1], **options)


def test_wrong_options_and_too_many_requests_are_refused_before_anything_is_asked(service, tmp_path):
    for options in ({"period": ("2024-01-01", "2024-01-01")}, {"method": "best"}, {"max_requests": 4}):
        with pytest.raises(ValueError):
            make(tmp_path / "store", **options)
    assert not service.asked and not list(tmp_path.iterdir())


def test_the_client_repeats_what_may_pass_and_a_refusal_stops_with_what_is_done_kept(service, tmp_path):
    points = np.stack([np.linspace(-120, 120, 6), np.linspace(-50, 60, 6)], 1)
    ee.data.setMaxRetries(2)
    service.faults = [None, (503, "busy"), (429, "quota"), None, None, None, (400, "Project is not registered")]
    with pytest.raises(ValueError, match="Earth Engine gave no chip: Project is not registered(?s:.*)[45] of 6 places are done"):
        make(tmp_path / "store", points, workers=1)
    service.asked.clear()
    assert len(make(tmp_path / "store", points, workers=1)) == 6
    assert len(service.asked) in (1, 2)  # a request that was under way is finished
    service.faults = [(400, "User memory limit exceeded.")]
    store = make(tmp_path / "less", points[:2], workers=1)
    assert len(store) == 1 and "ran out of memory" in str(store.manifest["made"]["left_out"])


def test_the_estimate_adds_up():
    text = estimate(1000, 64, YEAR)
    for part in ("1,000 requests", "131.1 MB", "3.1 minutes", "74 scenes", "352 million", "geonb-chips"):
        assert part in text
    assert "3,940 million" in estimate(1000, 64, YEAR, method="median")


# --- the connection -----------------------------------------------------------------------------------


def test_without_credentials_or_project_the_three_steps_are_named(monkeypatch, tmp_path):
    for name in ("GEONB_EE_PROJECT", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    ee.Reset()
    with pytest.raises(ValueError, match="could not be initialised(?s:.*)1. register(?s:.*)earthengine authenticate(?s:.*)--project"):
        connect("my-project")


def test_the_project_of_the_environment_and_the_limits_reach_the_client(monkeypatch):
    called = []
    monkeypatch.setenv("GEONB_EE_PROJECT", "from-the-environment")
    monkeypatch.setattr(ee, "Initialize", lambda **options: called.append(options))
    monkeypatch.setattr(ee.data, "setDeadline", called.append)
    monkeypatch.setattr(ee.data, "setMaxRetries", called.append)
    assert connect() is ee
    assert called == [{"project": "from-the-environment", "url": module.HIGH_VOLUME}, 300_000, 5]

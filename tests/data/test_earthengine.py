"""Earth Engine: the graph, the requests, the pixels, and what goes wrong on the way.

The service is played by a loopback server: it has the discovery document and the signatures of all algorithms that the
client carries for its own tests, gives out tokens, and evaluates the graphs that it is sent over made-up scenes, by the
documented meaning of each function (:class:`Evaluator`). What the real service holds, and its limits, are not tested.

After a meant change of the graph, write the golden file anew: PYTHONPATH=tests python tests/data/test_earthengine.py
"""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path

import ee
import numpy as np
import pyproj
import pytest
from faulty import Response, serve, tree
from hypothesis import example, given, settings
from hypothesis import strategies as st

from geonb.data.sources import earthengine as module
from geonb.data.sources.chips import Chip
from geonb.data.sources.earthengine import (
    EarthEngineError,
    chip_grid,
    composite,
    connect,
    earthengine_chips,
    estimate,
    from_earthengine,
    utm_epsg,
)
from geonb.data.store import BANDS, check_store
from geonb.data.work import WorkError
from geonb.geo import great_circle_km

YEAR = ("2024-01-01", "2025-01-01")
SIZE = 8
POINTS = np.array([[13.4, 52.5], [-60.0, -3.1], [179.9999, -16.8], [-179.9999, -16.8], [151.2, -33.9]])
GOLDEN = Path(__file__).with_name("golden_earthengine.json")
TOKEN = "ya29.a0-secret-of-the-tests"


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


class Refused(Exception):
    """What the service answers with status 400."""


class Evaluator:
    """The functions that the graphs use, on the pixels of one request."""

    def __init__(self, expression: dict, grid: dict, scenes: list[Scene]):
        self.values, self.result, self.scenes = expression["values"], expression["result"], scenes
        move, size = grid["affineTransform"], grid["dimensions"]
        assert (move["scaleX"], move["scaleY"], move["shearX"], move["shearY"]) == (10, -10, 0, 0)
        self.crs, self.shape = grid["crsCode"], (size["height"], size["width"])
        rows, columns = np.mgrid[: size["height"], : size["width"]]
        self.x, self.y = move["translateX"] + 10 * columns + 5, move["translateY"] - 10 * rows - 5
        self.everywhere = np.ones(self.shape, bool)
        self.known = {}

    def image(self) -> Image:
        return self.value({"valueReference": self.result}, {})

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
            case "functionInvocationValue":
                arguments = {name: self.value(v, env) for name, v in content["arguments"].items()}
                name = content["functionName"].replace(".", "_").lower()
                return getattr(self, "f_" + name)(**arguments)
        raise Refused(f"unknown node {kind}")

    # collections and filters

    def f_imagecollection_load(self, id):
        images = []
        for number, scene in enumerate(self.scenes):
            inside = scene.covers(self.x, self.y)
            if id == module.IMAGES:
                bands = {n: (scene.band(n, self.x, self.y).astype(float), inside) for n in BANDS}
                bands |= {"SCL": (np.full(self.shape, 4.0), inside)}
            elif id == module.CLOUDS:
                if scene.clear is None:
                    continue
                bands = {n: (scene.clear(self.x, self.y), inside) for n in ("cs", "cs_cdf")}
            else:
                raise Refused(f"ImageCollection.load: ImageCollection asset '{id}' not found")
            properties = {"system:index": f"S{number}", "system:time_start": day_ms(scene.day)}
            images.append(Image(bands, inside, properties | {"CLOUDY_PIXEL_PERCENTAGE": scene.cloud}))
        return images

    def f_imagecollection_fromimages(self, images):
        return images

    def f_imagecollection_merge(self, collection1, collection2):
        return collection1 + collection2

    def f_collection_filter(self, collection, filter):
        return [image for image in collection if filter(image)]

    def f_collection_map(self, collection, baseAlgorithm):
        return [baseAlgorithm(image) for image in collection]

    def f_collection_size(self, collection):
        return len(collection)

    def f_collection_limit(self, collection, key, ascending, limit=None):
        return sorted(collection, key=lambda image: image.properties[key], reverse=not ascending)

    def f_collection_first(self, collection):
        return collection[0]

    def f_projection(self, crs):
        return crs

    def f_geometryconstructors_rectangle(self, coordinates, crs, geodesic):
        assert crs == self.crs and geodesic is False
        west, south, east, north = coordinates
        return (self.x > west) & (self.x < east) & (self.y > south) & (self.y < north)

    def f_feature(self, geometry):
        return geometry

    def f_filter_intersects(self, leftField, rightValue):
        return lambda image: bool((image.inside & rightValue).any())

    def f_daterange(self, start, end):
        return day_ms(start) - 37_000_000, day_ms(end) - 37_000_000

    def f_filter_daterangecontains(self, leftValue, rightField):
        assert rightField == "system:time_start"
        return lambda image: leftValue[0] <= image.properties[rightField] < leftValue[1]

    def f_filter_greaterthan(self, leftField, rightValue):
        return lambda image: image.properties[leftField] > rightValue

    def f_filter_not(self, filter):
        return lambda image: not filter(image)

    # images

    def f_image_linkcollection(self, input, imageCollection, linkedBands):
        found = [i for i in imageCollection if i.properties["system:index"] == input.properties["system:index"]]
        nothing = (np.zeros(self.shape), np.zeros(self.shape, bool))
        new = {n: found[0].bands[n] if found else nothing for n in linkedBands}
        return Image(input.bands | new, input.inside, input.properties)

    def f_image_constant(self, value):
        values = value if isinstance(value, list) else [value]
        names = [f"constant_{i}" for i in range(len(values))] if isinstance(value, list) else ["constant"]
        bands = {n: (np.full(self.shape, float(v)), self.everywhere) for n, v in zip(names, values, strict=True)}
        return Image(bands, self.everywhere)

    def f_image_metadata(self, image, property):
        return Image({property: (np.full(self.shape, float(image.properties[property])), self.everywhere)}, self.everywhere)

    def f_image_select(self, input, bandSelectors):
        for name in bandSelectors:
            if name not in input.bands:
                raise Refused(f"Image.select: Band pattern '{name}' did not match any bands. Available bands: {[*input.bands]}")
        return Image({n: input.bands[n] for n in bandSelectors}, input.inside, input.properties)

    def f_image_addbands(self, dstImg, srcImg):
        assert not dstImg.bands.keys() & srcImg.bands.keys()
        return Image(dstImg.bands | srcImg.bands, dstImg.inside, dstImg.properties)

    def f_image_rename(self, input, names):
        if len(names) != len(input.bands):
            raise Refused(f"Image.rename: got {len(names)} names for {len(input.bands)} bands")
        return Image(dict(zip(names, input.bands.values(), strict=True)), input.inside, input.properties)

    def f_image_mask(self, image):
        return Image({n: (m.astype(float), self.everywhere) for n, (_, m) in image.bands.items()}, image.inside)

    def f_image_reduce(self, image, reducer):
        values = np.stack([v for v, _ in image.bands.values()])
        return Image({reducer: (getattr(values, reducer)(0), np.all([m for _, m in image.bands.values()], 0))}, image.inside)

    def f_reducer_min(self):
        return "min"

    def f_reducer_mean(self):
        return "mean"

    def f_image_updatemask(self, image, mask):
        ((values, known),) = mask.bands.values()
        return image.map(mask=lambda m: m & known & (values > 0))

    def f_image_unmask(self, input, value, sameFootprint):
        ((filling, _),) = value.bands.values()
        where = input.inside if sameFootprint else self.everywhere
        bands = {n: (np.where(m, v, filling), m | where) for n, (v, m) in input.bands.items()}
        return Image(bands, where, input.properties)

    def combined(self, image1, image2, function):
        ((other, known),) = image2.bands.values()
        return image1.map(lambda v: function(v, other).astype(float), lambda m: m & known)

    def f_image_gte(self, image1, image2):
        return self.combined(image1, image2, np.greater_equal)

    def f_image_multiply(self, image1, image2):
        return self.combined(image1, image2, np.multiply)

    def f_image_divide(self, image1, image2):
        return self.combined(image1, image2, np.divide)

    def f_image_floor(self, value):
        return value.map(np.floor)

    def f_image_round(self, value):
        return value.map(lambda v: np.floor(v + 0.5))

    def f_image_touint16(self, value):
        return value.map(lambda v: np.clip(np.trunc(v), 0, 65535))

    def f_image_reduceregion(self, image, reducer, geometry, scale, crs):
        assert (reducer, scale, crs) == ("mean", 10, self.crs)
        return {n: float(v[m & geometry].mean()) if (m & geometry).any() else None for n, (v, m) in image.bands.items()}

    def f_dictionary_get(self, dictionary, key):
        return dictionary[key]

    def f_element_set(self, object, key, value):
        return Image(object.bands, object.inside, object.properties | {key: value})

    def stacked(self, collection, function):
        bands = {}
        for name in collection[0].bands:
            values, masks = (np.stack([image.bands[name][i] for image in collection]) for i in (0, 1))
            bands[name] = function(values, masks)
        return Image(bands, self.everywhere)

    def f_reduce_median(self, collection):
        def median(values, masks):
            some = masks.any(0)
            return np.nanmedian(np.where(masks | ~some, values, np.nan), 0), some

        return self.stacked(collection, median)

    def f_reduce_count(self, collection):
        return self.stacked(collection, lambda values, masks: (masks.sum(0).astype(float), self.everywhere))


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@cache
def client_file(name: str) -> bytes:
    return (Path(ee.__file__).parent / "tests" / name).read_bytes()


def answer(scenes):
    """What the service says; all that is known of the client's insides is here."""

    def respond(request):
        if request.path == "/token":
            body = json.dumps({"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}).encode()
        elif request.path == "/$discovery/rest":
            body = client_file("cloud_api_discovery_document.json").replace(b"v1alpha", b"v1")  # as is asked for
        elif request.path == "/v1/projects/my-project/algorithms":
            body = client_file("algorithms.json")
        elif request.path == "/v1/projects/517222506229/algorithms":  # the client's own, asked when there is no other
            message = "Caller does not have required permission to use project 517222506229. Grant the caller a role"
            return Response(403, body=json.dumps({"error": {"code": 403, "message": message}}).encode())
        elif request.path == "/v1/projects/my-project/image:computePixels":
            asked = json.loads(request.body)
            try:
                image = Evaluator(asked["expression"], asked["grid"], scenes).image()
                found = np.zeros(image.inside.shape, [(n, "<u2") for n in asked["bandIds"]])
                for name in asked["bandIds"]:
                    values, mask = image.bands[name]
                    found[name] = np.where(mask, values, 0)
            except Refused as error:
                return Response(400, body=json.dumps({"error": {"code": 400, "message": str(error)}}).encode())
            return Response(200, {"Content-Type": "application/octet-stream"}, npy(found))
        else:
            return Response(404, body=b'{"error": {"code": 404, "message": "not here"}}')
        return Response(200, {"Content-Type": "application/json"}, body)

    return respond


@cache
def private_key() -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def write_key(folder: Path, url: str) -> Path:
    file = folder / "key.json"
    content = {"type": "service_account", "client_email": "robot@my-project.iam.gserviceaccount.com", "private_key_id": "1",
               "private_key": private_key(), "token_uri": f"{url}/token", "project_id": "my-project"}  # fmt: skip
    file.write_text(json.dumps(content))
    return file


class Service:
    """The server, a key for it, and how long the module slept."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        self.key = write_key(folder, server.url)
        self.slept = []  # the waits of a second or more

    def sleep(self, seconds):
        if seconds > 1:
            self.slept.append(seconds)

    def shows(self, scenes):
        self.server.answer = answer(scenes)

    def connect(self, **options):
        connect("my-project", key_file=self.key, **options)
        ee.data.setMaxRetries(0)
        self.server.seen.clear()
        return self

    @property
    def asked(self):
        return [json.loads(r.body) for r in self.server.seen if r.path.endswith(":computePixels")]


@contextmanager
def running(folder, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    for name in ("GEONB_EE_PROJECT", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(folder / "gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    ee.Reset()
    with serve(answer=answer(SCENES)) as server:
        service = Service(server, folder)
        monkeypatch.setattr(module, "HIGH_VOLUME", server.url)
        monkeypatch.setattr(module, "STANDARD", server.url)
        monkeypatch.setattr(module, "_sleep", service.sleep)
        try:
            yield service
        finally:
            ee.Reset()


@pytest.fixture(scope="module")
def connected(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        with running(tmp_path_factory.mktemp("service"), monkeypatch) as service:
            yield service.connect()


@pytest.fixture
def service(connected):
    """The service, connected once for all tests that only ask it for chips."""
    connected.server.tricks, connected.server.most_at_once = [], 0
    connected.server.seen.clear()
    connected.slept.clear()
    connected.shows(SCENES)
    ee.data.setMaxRetries(0)
    return connected


@pytest.fixture
def away(tmp_path, monkeypatch):
    """A service that is not connected yet."""
    with running(tmp_path, monkeypatch) as service:
        yield service


def chips(points=POINTS, **options):
    return earthengine_chips(**{"period": YEAR, "size": SIZE, "workers": 4} | options)(np.asarray(points))


def make(out, where=POINTS, **options):
    return from_earthengine(out, where, **{"period": YEAR, "size": SIZE, "workers": 3, "progress": False} | options)


# --- UTM ----------------------------------------------------------------------------------------------


@cache
def projection(epsg):
    return pyproj.Transformer.from_crs(4326, epsg, always_xy=True)


@cache
def area(epsg):
    return pyproj.CRS(epsg).area_of_use


positions = st.tuples(st.floats(-180, 180), st.floats(-80, 84))


@given(positions)
@settings(max_examples=300, deadline=None)
@example((180.0, 0.0))
@example((-180.0, -80.0))
@example((3.0, 56.0))
@example((0.0, 84.0))
def test_metres_agree_with_pyproj_to_a_millimetre_and_the_zone_is_in_its_area_of_use(point):
    lon, lat = point
    epsg = int(utm_epsg([point])[0])
    metres = module._utm_metres(lon, lat, epsg)
    assert np.allclose(metres, projection(epsg).transform(lon, lat), rtol=0, atol=1e-3)
    widened = 0 <= lon < 42 and (72 <= lat <= 84 or 56 <= lat < 64)
    where = area(epsg)
    slack = 6 if widened else 0
    assert where.west - slack - 1e-9 <= lon <= where.east + slack + 1e-9
    assert where.south - 1e-9 <= lat <= where.north + 1e-9


@given(positions, st.integers(1, 300))
@settings(max_examples=200, deadline=None)
@example((180.0, 65.0), 64)
@example((-180.0, -17.0), 64)
def test_a_chip_is_centred_on_its_position_to_half_a_pixel(point, size):
    grid = chip_grid(*point, size)
    assert grid.west % 10 == 0 and grid.north % 10 == 0
    x, y = grid.west + 5 * size, grid.north - 5 * size
    assert np.abs(np.array([x, y]) - projection(grid.epsg).transform(*point)).max() <= 5 + 1e-6
    lon, lat = projection(grid.epsg).transform(x, y, direction="INVERSE")
    assert great_circle_km(np.array([lon, lat]), np.array(point)) < 0.0075


@pytest.mark.parametrize(
    "lon, lat, epsg",
    [
        (5.32, 60.39, 32632),  # Bergen, in the widened zone
        (2.99, 60.0, 32631), (5.32, 55.99, 32631), (5.32, 64.0, 32631),
        (15.63, 78.22, 32633),  # Longyearbyen
        (8.99, 78, 32631), (9, 78, 32633), (20.99, 78, 32633), (21, 78, 32635), (33, 78, 32637), (41.99, 78, 32637),
        (42, 78, 32638), (15.63, 71.99, 32633), (7.0, 71.99, 32632),
        (-0.01, 51.5, 32630), (0, 51.5, 32631), (18.42, -33.92, 32734), (-78.5, -1e-9, 32717), (-78.5, 0, 32617),
        (180, 65, 32660), (-180, 65, 32601), (179.99, -17, 32760), (-179.99, -17, 32701),
        (0, 84.01, 0), (0, -80.01, 0), (45, 90, 0),
    ],
)  # fmt: skip
def test_zones_of_known_places(lon, lat, epsg):
    assert utm_epsg([[lon, lat]]).tolist() == [epsg]


def test_positions_outside_utm_and_chips_too_large_for_an_answer_are_refused():
    with pytest.raises(ValueError, match="outside UTM, which ends at 80 S and 84 N"):
        chip_grid(0, 85, 64)
    assert chip_grid(0, 0, 1254).size == 1254 and 1254**2 * 2 * 16 <= module.MAX_PAYLOAD < 1255**2 * 2 * 16
    for size in (0, 1255):
        with pytest.raises(ValueError, match="at most 48 MiB, which is 1254 x 1254 pixels"):
            chip_grid(0, 0, size)
        with pytest.raises(ValueError, match="1254 x 1254"):
            earthengine_chips(period=YEAR, size=size)
        with pytest.raises(ValueError, match="1254 x 1254"):
            estimate(1, size, YEAR)


# --- the graph ----------------------------------------------------------------------------------------


def graphs():
    grid = chip_grid(13.4, 52.5, 64)
    return {method: json.loads(composite(ee, grid, YEAR, method=method).serialize()) for method in module.METHODS}


def functions(graph, name):
    """The arguments of each call of a function, references followed."""
    found = []

    def walk(node):
        if isinstance(node, dict):
            if node.get("functionName") == name:
                found.append({k: follow(v) for k, v in node["arguments"].items()})
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    def follow(node):
        if not isinstance(node, dict):
            return node
        if "valueReference" in node:
            return follow(graph["values"][node["valueReference"]])
        if "arrayValue" in node:
            return [follow(v) for v in node["arrayValue"]["values"]]
        return node.get("constantValue", node)

    walk(graph)
    return found


def test_the_graph_is_the_one_of_the_golden_file(service):
    assert graphs() == json.loads(GOLDEN.read_text())


def test_the_graph_survives_the_deserialiser(service):
    for method in module.METHODS:
        image = composite(ee, chip_grid(13.4, 52.5, 64), YEAR, method=method)
        again = ee.deserializer.fromJSON(image.serialize())
        assert json.loads(again.serialize()) == json.loads(image.serialize())


@pytest.mark.parametrize("method", module.METHODS)
def test_bands_collections_and_limits_in_the_graph_are_those_that_were_meant(service, method):
    """The client does not know bands and collections: a wrong name would pass it."""
    image = composite(ee, chip_grid(13.4, 52.5, 64), YEAR, method=method, max_cloud=0.7, clear_threshold=0.55)
    graph = json.loads(image.serialize())
    selected = [call["bandSelectors"] for call in functions(graph, "Image.select")]
    assert selected.count(BANDS) >= 1 and selected.count([*BANDS, "views", "score", "day", "scenes"]) == 1
    assert {band for bands in selected for band in bands} == {*BANDS, "cs_cdf", "views", "score", "day", "scenes"}
    assert ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12"] == BANDS
    assert {call["id"] for call in functions(graph, "ImageCollection.load")} == {
        "COPERNICUS/S2_SR_HARMONIZED", "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED"}  # fmt: skip
    assert functions(graph, "Image.linkCollection")[0]["linkedBands"] == ["cs_cdf"]
    (cloudy,) = functions(graph, "Filter.greaterThan")
    assert cloudy["leftField"] == "CLOUDY_PIXEL_PERCENTAGE" and cloudy["rightValue"] == pytest.approx(70)
    (when,) = functions(graph, "DateRange")
    assert (when["start"], when["end"]) == YEAR
    (where,) = functions(graph, "GeometryConstructors.Rectangle")
    assert where["coordinates"] == [391070, 5817540, 391710, 5818180]
    limits = [call["image2"]["functionInvocationValue"]["arguments"]["value"] for call in functions(graph, "Image.gte")]
    assert [limit["constantValue"] for limit in limits] == [5500]


def test_what_the_client_does_not_know_raises(service):
    with pytest.raises(AttributeError):
        ee.ImageCollection(module.IMAGES).linkColection(ee.ImageCollection(module.CLOUDS), ["cs_cdf"])
    with pytest.raises(TypeError, match="sameFootprints"):
        ee.Image(1).unmask(0, sameFootprints=False)
    ee.ImageCollection(module.IMAGES).select("B99").serialize()  # the reason for the test above


@pytest.mark.parametrize(
    "options, message",
    [
        ({"period": "2024"}, "must be two days"),
        ({"period": ("2024-01-01",)}, "must be two days"),
        ({"period": ("2024-01-01", "2024-13-01")}, "must be two days"),
        ({"period": ("2024-01-01", None)}, "must be two days"),
        ({"period": ("2024-01-01", "2024-01-01")}, "not be empty"),
        ({"period": ("2016-01-01", "2018-01-01")}, "must begin on 2017-03-28 or later"),
        ({"method": "best"}, "unknown method 'best'; choose from clearest, median"),
        ({"max_cloud": 40}, "max_cloud is 40, but must be a share"),
        ({"clear_threshold": float("nan")}, "clear_threshold is nan"),
        ({"min_clear": -0.1}, "min_clear is -0.1"),
        ({"workers": 0}, "0 workers: Earth Engine takes from 1 to 40"),
        ({"workers": 41}, "41 workers"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_asked(options, message):
    with pytest.raises(ValueError, match=message):
        earthengine_chips(**{"period": YEAR} | options)


# --- chips --------------------------------------------------------------------------------------------


def seen_by(scene, grid):
    """A scene on a grid, without any graph: bands (12, n, n), Cloud Score+, and where it has data."""
    step = 10 * np.arange(grid.size) + 5
    x, y = np.meshgrid(grid.west + step, grid.north - step)
    inside = scene.covers(x, y)
    score = np.where(inside, scene.clear(x, y), 0) if scene.clear else np.zeros(x.shape)
    return np.stack([scene.band(name, x, y) for name in BANDS]) * inside, score, inside


def eligible(grid):
    return [(s, *seen_by(s, grid)) for s in SCENES if YEAR[0] <= s.day < YEAR[1] and s.cloud <= 80]


def test_the_clearest_chip_is_the_scene_with_the_best_score_and_has_its_date(service):
    for point, chip in zip(POINTS, chips(), strict=True):
        grid = chip_grid(*point, SIZE)
        scenes = eligible(grid)
        scene, bands, score, inside = max(scenes, key=lambda s: s[2].mean())
        assert scene.day == "2024-06-06"  # the scene of 7 July has better pixels, but not all of them
        assert chip.image.dtype == np.uint16 and (chip.image == bands).all()
        assert chip.date == scene.day
        assert chip.columns == {
            "scenes": 5, "clear_share": 1.0, "cloud_score": 0.8, "epsg": grid.epsg, "period": "2024-01-01/2025-01-01"
        }  # fmt: skip


def test_the_median_chip_is_the_median_of_the_clear_views_of_each_pixel(service):
    for point, chip in zip(POINTS, chips(method="median"), strict=True):
        grid = chip_grid(*point, SIZE)
        scenes = eligible(grid)
        clear = np.stack([score >= 0.6 for _, _, score, _ in scenes])
        stack = np.stack([bands for _, bands, _, _ in scenes]).astype(float)
        expected = np.nanmedian(np.where(clear[:, None], stack, np.nan), 0)
        assert (chip.image == np.floor(expected + 0.5)).all()
        assert chip.date == "" and "2024-05-05" <= chip.columns["middle_date"] <= "2024-08-08"
        assert chip.columns["clear_views"] == pytest.approx(clear.sum(0).mean(), abs=0.01)
        assert chip.columns["clear_share"] == 1.0 and chip.columns["scenes"] == 5
        assert len(np.unique(clear.sum(0))) > 1  # pixels differ in how often they were seen


def test_the_request_says_what_where_and_for_whom(service):
    chips(POINTS[:1])
    (request,) = [r for r in service.server.seen if r.path.endswith(":computePixels")]
    headers = {name.lower(): value for name, value in request.headers.items()}
    assert request.method == "POST" and request.path == "/v1/projects/my-project/image:computePixels"
    assert headers["authorization"] == f"Bearer {TOKEN}" and headers["x-goog-user-project"] == "my-project"
    body = json.loads(request.body)
    assert body.keys() == {"expression", "fileFormat", "grid", "bandIds", "workloadTag"}
    assert body["fileFormat"] == "NPY" and body["workloadTag"] == "geonb-chips"
    assert body["bandIds"] == [*BANDS, "views", "score", "day", "scenes"]
    assert body["grid"] == {
        "crsCode": "EPSG:32633",
        "dimensions": {"width": SIZE, "height": SIZE},
        "affineTransform": {
            "scaleX": 10, "shearX": 0, "translateX": 391350, "shearY": 0, "scaleY": -10, "translateY": 5817900,
        },
    }  # fmt: skip


def partly(share):
    """Clear over the first columns of each chip only."""
    return lambda x, y: np.where(x - x.min() < 10 * round(share * SIZE), 0.9, 0.2)


@pytest.mark.parametrize(
    "scenes, method, options, reason",
    [
        ([], "clearest", {}, "no scene in the period, or all too cloudy"),
        ([], "median", {}, "no scene in the period, or all too cloudy"),
        ([Scene("2024-02-01", 900, cloud=81)], "clearest", {}, "no scene in the period, or all too cloudy"),
        ([Scene("2024-02-01", 900, covers=lambda x, y: np.zeros(x.shape, bool))], "median", {}, "no scene in the period"),
        ([Scene("2024-02-01", 900, clear=None)], "clearest", {}, "less than 90% of the chip seen clearly"),
        ([Scene("2024-02-01", 900, clear=None)], "median", {"min_clear": 0}, "less than 0% of the chip"),
        ([Scene("2024-02-01", 900, clear=partly(6 / 8))], "clearest", {}, "less than 90% of the chip seen clearly"),
        ([Scene("2024-02-01", 900, clear=partly(6 / 8))], "median", {}, "less than 90% of the chip seen clearly"),
        ([Scene("2024-02-01", 20)], "clearest", {}, "too dark or too bright"),
        ([Scene("2024-02-01", 30000)], "clearest", {}, "too dark or too bright"),
    ],
)
def test_why_there_is_no_chip(service, scenes, method, options, reason):
    service.shows(scenes)
    (found,) = chips(POINTS[:1], method=method, **options)
    assert isinstance(found, str) and found.startswith(reason)


def test_pixels_without_a_view_are_zero_and_seen_ones_never(service):
    scenes = [Scene("2024-02-01", 0, clear=partly(7 / 8), covers=lambda x, y: y - y.min() >= 10)]  # the last row is missing
    scenes[0].band = lambda name, x, y: np.where(x - x.min() < 20, 0, 900)
    service.shows(scenes)
    (clearest,) = chips(POINTS[:1], min_clear=0.5)
    (median,) = chips(POINTS[:1], min_clear=0.5, method="median")
    for chip in (clearest, median):
        assert (chip.image[:, -1] == 0).all()
        assert (chip.image[:, :-1, :2] == 1).all() and (chip.image[:, :-1, 2:7] == 900).all()
        assert chip.columns["clear_share"] == round(7 * 7 / 64, 4)
    assert (clearest.image[:, :-1, 7] == 900).all()  # as the scene shows it, clear or not
    assert (median.image[:, :-1, 7] == 0).all()


def test_places_outside_utm_are_not_asked_for(service):
    north, south, here = chips([[0, 84.5], [0, -80.5], [13.4, 52.5]])
    assert north == south == "outside UTM (80 S to 84 N)" and isinstance(here, Chip)
    assert len(service.asked) == 1


def test_as_many_requests_at_a_time_as_there_are_workers(service):
    together, respond = threading.Barrier(5), answer(SCENES)

    def wait_for_five(request):
        together.wait(30)
        return respond(request)

    service.server.answer = wait_for_five
    chips(np.repeat(POINTS[:1], 15, 0), workers=5)
    assert service.server.most_at_once == 5


def test_requests_start_no_faster_than_the_quota_and_none_starts_after_a_refusal(monkeypatch):
    now, slept = [100.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "_sleep", slept.append)
    pace = module._Pace()
    for _ in range(4):
        pace.wait()
    assert np.allclose(slept, [0.05, 0.10, 0.15])
    pace.hold(30)
    pace.hold(5)
    pace.wait()
    assert slept[-1] == pytest.approx(30)


# --- a store, and what goes wrong ---------------------------------------------------------------------


def test_a_store_says_where_its_chips_are_from(service, tmp_path):
    store = make(tmp_path / "store", np.vstack([POINTS, [[0, 85]]]))
    assert len(store) == 5 and store.manifest["made"]["left_out"] == {"outside UTM (80 S to 84 N)": 1}
    assert store.image_dates(range(5)) == ["2024-06-06"] * 5
    assert store.column("epsg").tolist() == [32633, 32721, 32760, 32701, 32756]
    plan = store.manifest["made"]["plan"]
    assert plan["period"] == list(YEAR) and plan["method"] == "clearest" and plan["collections"] == [module.IMAGES, module.CLOUDS]
    assert "Copernicus Sentinel" in store.places["license"][0].as_py()
    written = b"".join(p.read_bytes() for p in store.path.rglob("*") if p.is_file())
    for secret in (TOKEN, "robot@", "PRIVATE", "key.json", "my-project"):
        assert secret.encode() not in written
    check_store(store.path)


@pytest.fixture(scope="module")
def undisturbed(connected, tmp_path_factory):
    connected.server.tricks = []
    return tree(make(tmp_path_factory.mktemp("undisturbed") / "store", POINTS[:3]).path)


def wrong_dtype(kind):
    return npy(np.zeros((SIZE, SIZE), [(n, kind) for n in BANDS + module.EXTRA]))


class Bomb:
    def __reduce__(self):
        return (pytest.exit, ("unpickled",))


def pickled() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Bomb()], dtype=object), allow_pickle=True)
    return stream.getvalue()


RIGHT = npy(np.zeros((SIZE, SIZE), [(n, "<u2") for n in BANDS + module.EXTRA]))
FAULTS = {
    "429": {"status": 429, "body": b'{"error": {"code": 429, "message": "Too many concurrent aggregations."}}'},
    "429 with Retry-After": {"status": 429, "headers": {"Retry-After": "77"}, "body": b'{"error": {"message": "Quota"}}'},
    "500": {"status": 500, "body": b"<html>oops</html>"},
    "503": {"status": 503},
    "cut in the body": {"cut": 100},
    "closed at once": {"raw": b""},
    "no HTTP": {"raw": b"\x00\x01 what?\r\n\r\n"},
    "truncated": {"truncate": 700},
    "empty": {"status": 200},
    "a page of text": {"status": 200, "body": b"<html>log in, please</html>"},
    "a pickle": {"status": 200, "body": pickle.dumps(Bomb())},
    "a pickle in .npy": {"status": 200, "body": pickled()},
    "an .npz": {"status": 200, "body": b"PK\x03\x04" + bytes(100)},
    "a wrong shape": {"status": 200, "body": npy(np.zeros((SIZE, SIZE + 1), [(n, "<u2") for n in BANDS + module.EXTRA]))},
    "a wrong shape of the same size": {"status": 200, "body": npy(np.zeros((4, 16), [(n, "<u2") for n in BANDS + module.EXTRA]))},
    "wrong types": {"status": 200, "body": wrong_dtype("<i4")},
    "byte order": {"status": 200, "body": wrong_dtype(">u2")},
    "bands missing": {"status": 200, "body": npy(np.zeros((SIZE, SIZE), [(n, "<u2") for n in BANDS]))},
    "bands in another order": {"status": 200, "body": npy(np.zeros((SIZE, SIZE), [(n, "<u2") for n in module.EXTRA + BANDS]))},
    "a vast shape": {"status": 200, "body": RIGHT.replace(b"(8, 8)", b"(9999999999, 99)"[:6])},
    "more than asked": {"status": 200, "body": RIGHT + b"\0"},
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_fault_the_next_run_finishes_with_the_same_bytes(service, undisturbed, tmp_path, fault):
    """As often as there are attempts: the run stops with a word. Once: the run mends it."""
    service.server.tricks = [{}] + [dict(FAULTS[fault]) for _ in range(module.ATTEMPTS)]
    with pytest.raises(WorkError, match="Earth Engine gave no chip after 3 attempts") as stopped:
        make(tmp_path / "store", POINTS[:3], workers=1)
    assert TOKEN not in str(stopped.value) and "the same command goes on" in str(stopped.value)
    assert not (tmp_path / "store").exists()
    service.server.seen.clear()
    service.server.tricks = [{}, dict(FAULTS[fault])]
    assert tree(make(tmp_path / "store", POINTS[:3], workers=1).path) == undisturbed
    assert len(service.asked) == 4


def test_a_slow_server_runs_into_the_time_limit(service, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    service.server.tricks = [{"delay": 0.6}]
    assert tree(make(tmp_path / "store", POINTS[:3], workers=1).path) == undisturbed


def test_waits_grow_and_follow_what_the_server_asks_for_and_a_refusal_holds_all_threads(service, monkeypatch):
    held, hold = [], module._Pace.hold
    monkeypatch.setattr(module._Pace, "hold", lambda pace, seconds: (held.append(seconds), hold(pace, seconds)))
    service.server.tricks = [dict(FAULTS["503"]), dict(FAULTS["503"])]
    chips(POINTS[:1])
    assert service.slept == [15, 30] and not held
    service.slept.clear()
    service.server.tricks = [dict(FAULTS["429 with Retry-After"]), dict(FAULTS["429"], headers={"Retry-After": "86400"})]
    chips(POINTS[:1])
    assert [round(s) for s in service.slept] == held == [77, 300]  # no more than five minutes


def test_the_clients_own_retries_come_first(service, monkeypatch):
    ee.data.setMaxRetries(5)
    slept = []
    monkeypatch.setattr("googleapiclient.http.time.sleep", slept.append)
    service.server.tricks = [dict(FAULTS["429"]), dict(FAULTS["500"]), dict(FAULTS["cut in the body"])]
    (chip,) = chips(POINTS[:1])
    assert isinstance(chip, Chip) and len(slept) == 3 and not service.slept


def test_what_will_not_get_better_is_not_tried_again(service, tmp_path):
    refused = {"status": 400, "body": json.dumps({"error": {"message": f"Image.select: no band, Bearer {TOKEN}"}}).encode()}
    service.server.tricks = [refused]
    with pytest.raises(EarthEngineError, match="gave no chip: EEException: Image.select: no band, .removed.$"):
        chips(POINTS[:1])
    assert len(service.asked) == 1
    large = {"status": 400, "body": b'{"error": {"message": "User memory limit exceeded."}}'}
    service.server.tricks = [large]
    first, second = chips(POINTS[:2], workers=1)
    assert first.startswith("Earth Engine ran out of memory or time") and isinstance(second, Chip)


def test_a_project_that_is_shut_off_in_the_middle_says_what_to_do(service, tmp_path):
    message = "Google Earth Engine API has not been used in project 123 before or it is disabled."
    service.server.tricks = [{}, {"status": 403, "body": json.dumps({"error": {"message": message}}).encode()}]
    with pytest.raises(WorkError, match=r"not registered for Earth Engine.*\(step 1\)\n(?s:.*)code.earthengine.google.com"):
        make(tmp_path / "store", workers=1)


JOB = """
import sys, numpy as np
from geonb.data.sources import earthengine as module
url, key, out, points = sys.argv[1:]
module.HIGH_VOLUME, module._sleep = url, lambda seconds: None
module.connect("my-project", key_file=key)
module.from_earthengine(out, np.array(eval(points)), period=("2024-01-01", "2025-01-01"), size=8, workers=8, progress=False)
"""


def test_a_process_that_is_killed_goes_on_and_gives_the_same_bytes(service, tmp_path):
    points = np.stack([np.linspace(-120, 120, 70), np.linspace(-50, 60, 70)], 1)  # two batches
    (tmp_path / "a").mkdir()
    undisturbed = tree(make(tmp_path / "a" / "store", points, workers=8).path)
    service.server.tricks = {"/v1/projects/my-project/image:computePixels": [{}] * 67 + [{"delay": 60}] * 3}
    command = [sys.executable, "-c", JOB, service.server.url, str(service.key), str(tmp_path / "store"), str(points.tolist())]
    service.server.seen.clear()
    with subprocess.Popen(command, env=os.environ | {"no_proxy": "127.0.0.1"}) as process:
        deadline = time.monotonic() + 60
        while len(service.asked) < 70 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "store").exists()
    service.server.tricks = []
    service.server.seen.clear()
    assert tree(make(tmp_path / "store", points, workers=8).path) == undisturbed
    assert len(service.asked) == 6  # the second batch only


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_the_reader_do_more_than_refuse(data):
    body = bytearray(RIGHT)
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, min(len(body), 700) - 1))
        body[where : where + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
    try:
        assert module._read_pixels(bytes(body), SIZE).shape == (SIZE, SIZE)
    except module._Malformed as error:
        assert len(str(error)) < 300


def test_credentials_do_not_follow_a_redirection(service):
    with serve() as elsewhere:
        service.server.tricks = [{"redirect": f"{elsewhere.url}/catch", "status": 307}]
        with pytest.raises(EarthEngineError):
            chips(POINTS[:1])
        assert not elsewhere.seen


# --- what it costs ------------------------------------------------------------------------------------


def test_the_estimate_is_the_sum_of_its_parts():
    e = estimate(1000, 64, YEAR, workers=16, latency_s=3)
    assert (e.requests, e.download_bytes, e.store_bytes) == (1000, 1000 * 64 * 64 * 2 * 16, 1000 * 64 * 64 * 2 * 12)
    assert e.scenes == 74 and e.pixels_read == 1000 * 64 * 64 * (74 + 12)
    assert e.minutes == pytest.approx(1000 * 3 / 16 / 60)
    assert estimate(1000, 64, YEAR, method="median").pixels_read == 1000 * 64 * 64 * 74 * 13
    assert estimate(6000, 64, YEAR, latency_s=0.001).minutes == pytest.approx(6000 / 20 / 60)  # the pace of starts
    text = str(e)
    for part in ("1,000 requests", "131.1 MB", "3.1 minutes", "an assumption", "74 scenes", "Community 150", "540 EECU-seconds",
                 "geonb-chips", "20"):  # fmt: skip
        assert part in text
    assert "0 requests" in str(estimate(0, 64, YEAR))
    for n, told in ((1, "1 s with"), (20, "4 s with"), (320, "1.0 minutes with"), (100_000, "5.2 hours with")):
        assert told in str(estimate(n, 64, YEAR, workers=16, latency_s=3)), n


def test_the_estimate_is_printed_before_it_starts(service, tmp_path, capsys):
    service.server.tricks = [dict(FAULTS["503"]) for _ in range(9)]
    with pytest.raises(WorkError):
        make(tmp_path / "store", progress=True)
    assert "5 requests, one a chip" in capsys.readouterr().out


# --- the connection -----------------------------------------------------------------------------------


def write_credentials(folder, **content):
    file = folder / ".config" / "earthengine" / "credentials"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"refresh_token": "1//secret-refresh", "client_secret": "GOCSPX-hidden"} | content))


def steps(error):
    return all(part in str(error.value) for part in ("1. register", "2. put credentials", "earthengine authenticate",
                                                     "--project ID", "GEONB_EE_PROJECT"))  # fmt: skip


def test_nothing_is_imported_or_asked_by_importing():
    code = "import sys, geonb.data.sources.earthengine; print([m for m in ('ee', 'requests', 'google.auth') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_without_credentials_the_three_steps_are_told(away):
    with pytest.raises(EarthEngineError, match=r"no credentials on this machine.*\(step 2\)") as error:
        connect("my-project")
    assert steps(error) and not away.server.seen


def test_more_requests_than_allowed_are_refused_before_anything_is_asked(away, tmp_path, capsys):
    with pytest.raises(ValueError, match="5 requests, but at most 4 are allowed"):
        make(tmp_path / "store", np.vstack([POINTS, [[0, 85]]]), max_requests=4)
    assert not (tmp_path / "store.work").exists() and not away.server.seen and not capsys.readouterr().out


def test_a_graph_without_a_connection_raises_and_the_store_tells_the_steps(away, tmp_path):
    with pytest.raises(ee.EEException, match="not initialized"):
        composite(ee, chip_grid(0, 0, 8), YEAR)
    with pytest.raises(EarthEngineError) as error:
        make(tmp_path / "store")
    assert steps(error) and not (tmp_path / "store").exists() and not (tmp_path / "store.work").exists()


def test_credentials_of_the_command_line_are_used(away, monkeypatch, tmp_path):
    monkeypatch.setattr(ee.oauth, "TOKEN_URI", f"{away.server.url}/token")
    write_credentials(tmp_path)
    with pytest.raises(EarthEngineError, match=r"no project is given \(step 3\)") as error:
        connect()
    assert steps(error)
    monkeypatch.setenv("GEONB_EE_PROJECT", "my-project")
    assert connect() is ee
    (chip,) = chips(POINTS[:1])
    assert isinstance(chip, Chip)
    tokens = [r for r in away.server.seen if r.path == "/token"]
    assert b"secret-refresh" in tokens[0].body


def test_the_project_of_the_credentials_is_used_when_no_other_is_given(away, monkeypatch, tmp_path):
    monkeypatch.setattr(ee.oauth, "TOKEN_URI", f"{away.server.url}/token")
    write_credentials(tmp_path, project="my-project")
    make(tmp_path / "store", POINTS[:1])
    assert len(away.asked) == 1


@pytest.mark.parametrize(
    "status, text, meaning, told",
    [
        (403, "Project my-project is not registered to use Earth Engine. Visit https://x to register.", r"step 1", True),
        (403, "Not signed up for Earth Engine or project is not registered. Visit https://x", r"step 1", True),
        (403, "Google Earth Engine API has not been used in project 5 before or it is disabled.", r"step 1", True),
        (403, "Caller does not have required permission to use project my-project.", "may not use this project", True),
        (403, "Permission 'earthengine.computations.create' denied on resource '//x/projects/y'", "may not use this", True),
        (401, "Request had invalid authentication credentials.", r"step 2", True),
        (429, "Quota exceeded for quota metric 'Requests'", "quota is used up", True),
        (418, "Something new", "could not be initialised", True),
    ],
)
def test_refusals_of_the_service_are_told_in_the_terms_of_the_three_steps(away, status, text, meaning, told, monkeypatch):
    monkeypatch.setattr("googleapiclient.http.time.sleep", lambda s: None)
    body = json.dumps({"error": {"code": status, "message": f"{text} (token={TOKEN})"}}).encode()
    away.server.tricks = {"/v1/projects/my-project/algorithms": [{"status": status, "body": body}] * 9}
    with pytest.raises(EarthEngineError, match=meaning) as error:
        away.connect()
    assert steps(error) is told and TOKEN not in str(error.value) and text[:20] in str(error.value)
    assert error.value.__cause__ is None and error.value.__suppress_context__
    assert not ee.data.is_initialized()


def test_expired_credentials_and_a_dead_network_are_told_apart(away, monkeypatch, tmp_path):
    monkeypatch.setattr("googleapiclient.http.time.sleep", lambda s: None)
    gone = {"status": 400, "body": b'{"error": "invalid_grant", "error_description": "Token has been expired or revoked."}'}
    away.server.tricks = {"/token": [gone] * 20}
    with pytest.raises(EarthEngineError, match=r"have expired \(step 2\)"):
        away.connect()
    away.server.tricks = []
    with serve() as closed:
        address = closed.url
    monkeypatch.setattr(module, "HIGH_VOLUME", address)
    with pytest.raises(EarthEngineError, match="no connection to Earth Engine; check the network") as error:
        away.connect()
    assert TOKEN not in str(error.value)


def test_key_files_that_are_missing_or_wrong_are_told_without_their_content(away, tmp_path):
    with pytest.raises(EarthEngineError, match="none.json cannot be read .No such file"):
        connect("my-project", key_file=tmp_path / "none.json")
    with pytest.raises(EarthEngineError, match="needs its key: give key_file"):
        connect("my-project", service_account="robot@x.com")
    content = json.loads(away.key.read_text())
    secret = content["private_key"][100:160]
    for wrong in (
        away.key.read_text()[:-40],
        json.dumps({k: v for k, v in content.items() if k != "token_uri"}),
        json.dumps(content | {"private_key": content["private_key"][:400]}),
        json.dumps([content]),
        content["private_key"],
    ):
        bad = tmp_path / "bad.json"
        bad.write_text(wrong)
        with pytest.raises(EarthEngineError, match="is not the JSON key of a service account") as error:
            connect("my-project", key_file=bad)
        assert error.value.__suppress_context__
        assert secret not in str(error.value) and steps(error)


def test_the_standard_end_point_can_be_asked_for(away, monkeypatch):
    monkeypatch.setattr(module, "HIGH_VOLUME", "http://127.0.0.1:9")
    away.connect(high_volume=False)
    assert isinstance(chips(POINTS[:1])[0], Chip)


@pytest.mark.parametrize(
    "text",
    [
        "Bearer abc.def", "ya29.a0AfB_by", "1//0gsecret", "eyJhbGciOi.eyJpc3Mi.c2ln", "AIzaSyD-secret", "GOCSPX-hidden",
        "access_token=hush", '"refresh_token": "hush"', "client_secret: hush", "'private_key': 'hush'", "api_key=hush",
        "-----BEGIN PRIVATE KEY-----\nMIIhush\n-----END PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\nMIIhush",
    ],
)  # fmt: skip
def test_what_looks_like_a_credential_is_taken_out_of_messages(text):
    cleaned = module._clean(f"before {text} after")
    assert cleaned.startswith("before ") and "[removed]" in cleaned
    for secret in ("abc", "a0Af", "0gsecret", "c2ln", "SyD", "hidden", "hush"):
        assert secret not in cleaned
    plain = "Project my-project is not registered to use Earth Engine; see https://developers.google.com/a/b?project=x"
    assert module._clean(plain) == plain


def write_golden():
    import tempfile

    with pytest.MonkeyPatch.context() as monkeypatch, tempfile.TemporaryDirectory() as folder:
        with running(Path(folder), monkeypatch) as service:
            service.connect()
            lines = [f'"{name}": {json.dumps(graph, sort_keys=True)}' for name, graph in graphs().items()]
    GOLDEN.write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    write_golden()

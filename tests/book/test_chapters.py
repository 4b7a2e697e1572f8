"""The frame of a chapter: what every reader finds in each of them, and in which order. Nothing is executed here.

A chapter says what it gives, what it needs and how long it runs; shows its idea in a figure and its mathematics beside
the code; sets exercises, each with a hidden solution that runs; and ends on key points and further reading.
"""

import json
import re
from functools import lru_cache
from inspect import signature
from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parents[2] / "book"
PATHS = {path.stem: path for path in sorted(BOOK.glob("[0-9][0-9]_*.ipynb"))}
OPENING = ("**After this chapter you can**", "**You need**", '**Time to run:** <a id="time"></a>')
FOLDED = {"remove-cell", "hide-input", "hide-cell", "remove-input"}  # the reader does not see the code at first
LINES, WIDTH = 25, 96  # of code in one piece that a reader sees; wider ones scroll on a laptop
SOLUTION = re.compile(r"# Exercise (\d+): \S")
WITHOUT_EQUATION = {"02_data": "it opens files and looks at them; nothing in it is computed by a formula"}


class Chapter:
    """A notebook's cells, and its prose as one text."""

    def __init__(self, cells: list[dict]):
        self.cells = [("".join(c["source"]), c["cell_type"], set(c["metadata"].get("tags", []))) for c in cells]
        self.prose = "\n\n".join(source for source, kind, _ in self.cells if kind == "markdown")
        self.code = [(source, tags) for source, kind, tags in self.cells if kind == "code"]
        self.sections = re.findall(r"^## (.+)", self.prose, re.M)

    def section(self, title: str) -> str:
        """The prose below a heading, up to the next one."""
        return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", self.prose, re.M | re.S)[1]


@lru_cache
def chapter(stem: str) -> Chapter:
    return Chapter(json.loads(PATHS[stem].read_text("utf-8"))["cells"])


@pytest.fixture(params=PATHS, scope="module")
def stem(request):
    return request.param


def test_there_are_the_chapters_1_to_the_last():
    assert [int(stem[:2]) for stem in PATHS] == list(range(1, len(PATHS) + 1)) and len(PATHS) >= 19


def test_its_opening_is_whole(stem):
    opening = chapter(stem).prose.split("\n## ")[0]
    at = [opening.find(part) for part in OPENING]
    assert -1 not in at, f"missing: {[part for part, where in zip(OPENING, at, strict=True) if where < 0]}"
    assert at == sorted(at), "these stand in another order: " + ", ".join(OPENING)
    assert re.search(r'^\*\*Time to run:\*\* <a id="time"></a>', opening, re.M), "the time is no paragraph of its own"


def test_it_ends_with_exercises_key_points_and_further_reading(stem):
    sections = [s for s in chapter(stem).sections if s != "Not tried"]
    assert sections[-3:] == ["Exercises", "Key points", "Further reading"]
    assert re.search(r"^- ", chapter(stem).section("Key points"), re.M), "key points are a list"


def test_its_idea_is_a_figure_near_the_start(stem):
    titles = chapter(stem).sections[:2]
    found = [title for title in titles if '<a id="fig-' in chapter(stem).section(title)]
    assert found, f"no figure in the first two sections, {titles}"


def test_each_exercise_has_a_hidden_solution(stem):
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", chapter(stem).section("Exercises"), re.M)]
    assert len(numbers) >= 2 and numbers == list(range(1, len(numbers) + 1)), f"exercises are numbered {numbers}"
    (start,) = (i for i, (s, kind, _) in enumerate(chapter(stem).cells) if kind == "markdown" and "## Exercises\n" in s)
    solved = []
    for place, (source, _, tags) in enumerate(chapter(stem).cells):
        if "hide-cell" in tags:
            first = source.split("\n")[0]
            assert SOLUTION.match(first), f"a hidden cell starts with {first!r}, not with '# Exercise k: a few words'"
            assert place > start, f"above the exercises: {first}"
            assert any(not line.startswith("#") for line in source.splitlines()), f"no code: {first}"
            solved.append(int(SOLUTION.match(first)[1]))
    assert solved == numbers, f"exercises {numbers}, solutions of {solved}"


def test_code_that_is_seen_is_short(stem):
    seen = [code.splitlines() for code, tags in chapter(stem).code if not tags & FOLDED]
    long = {lines[0]: len(lines) for lines in seen if len(lines) > LINES}
    assert not long, f"cells of more than {LINES} lines: {long}"
    wide = [line for lines in seen for line in lines if len(line) > WIDTH]
    assert not wide, f"lines of more than {WIDTH} characters: {wide}"


def test_its_mathematics_is_a_numbered_equation(stem):
    has = bool(re.search(r'^<a id="eq-[\w-]+"></a>\n\n\$\$', chapter(stem).prose, re.M))
    assert has != (stem in WITHOUT_EQUATION), WITHOUT_EQUATION.get(stem, "no equation with an anchor")


def test_figures_and_equations_are_referred_to(stem):
    anchors = re.findall(r'<a id="((?:fig|eq)-[\w-]+)"></a>', chapter(stem).prose)
    referred = re.findall(r"\[[^]]+\]\(#((?:fig|eq)-[\w-]+)\)", chapter(stem).prose)
    assert not set(anchors) - set(referred), f"not referred to: {set(anchors) - set(referred)}"
    assert not set(referred) - set(anchors), f"referred to and not there: {set(referred) - set(anchors)}"


def test_a_caption_stands_below_its_figure(stem):
    cells = chapter(stem).cells
    for (_, before, _), (source, _, _) in zip(cells, cells[1:], strict=False):
        for caption in re.finditer(r'<a id="fig-[\w-]+"></a>(.*)', source):
            assert caption.start() == 0 and before == "code", f"not directly below a code cell: {caption[0]}"
            assert re.match(r"\*\*Figure\.\*\* \S", caption[1]), caption[0]


def test_chapters_are_linked_where_they_are_named(stem):
    prose = chapter(stem).prose
    assert not [f for f in re.findall(r"\]\((?!https?:|#)([^)#]+)", prose) if not (BOOK / f).exists()]
    for number, file in re.findall(r"\[chapters? (\d+)\]\(([^)#]+)", prose, re.I):
        assert int(file[:2]) == int(number), f"chapter {number} is not {file}"
    bare = re.findall(r"[^\n[]{0,30}\bchapters? \d+\b(?!\])", re.sub(r"`[^`]*`", "", prose), re.I)
    assert not bare, f"chapters without a link: {bare}"


def test_names_of_figures_and_equations_are_unique_in_the_book():
    texts = [*(chapter(stem).prose for stem in PATHS), *(page.read_text("utf-8") for page in BOOK.glob("*.md"))]
    names = [name for text in texts for name in re.findall(r'<a id="((?:fig|eq)-[\w-]+)"', text)]
    assert sorted(names) == sorted(set(names))


def test_the_worked_example_of_a_chapter_has_the_frame(tmp_path, monkeypatch):
    contributing = (BOOK.parent / "CONTRIBUTING.md").read_text("utf-8")
    example = next(block for block in re.findall(r"^```python\n(.*?)^```$", contributing, re.M | re.S) if "21_heights" in block)
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "intro.ipynb").write_text((BOOK / "intro.ipynb").read_text("utf-8"), "utf-8")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "CONTRIBUTING.md", "exec"), {})
    made = Chapter(json.loads((tmp_path / "book" / "21_heights.ipynb").read_text("utf-8"))["cells"])
    monkeypatch.setitem(globals(), "chapter", lambda _: made)
    checks = [check for name, check in globals().items() if name.startswith("test_") and list(signature(check).parameters) == ["stem"]]
    assert len(checks) > 8
    for check in checks:
        check("21_heights")


def markdown(text):
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def code(text, *tags):
    return {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": text}


SOUND = [
    code("import sys"),
    markdown("# A\n\n**After this chapter you can** see.\n\n**You need** eyes.\n\n"
             "**Time to run:** <a id=\"time\"></a>short.\n\n## The idea"),
    code("themed(fig, 'A line.')", "hide-input"),
    markdown('<a id="fig-a"></a>**Figure.** A line.\n\nSee [figure](#fig-a), '
             '[equation](#eq-a), [chapter 2](02_data.ipynb).\n\n'
             '<a id="eq-a"></a>\n\n$$ x $$'),
    markdown("## Exercises\n\n1. Why?\n2. How?"),
    code("# Exercise 1: why\nprint(1)", "hide-cell"),
    code("# Exercise 2: how\nprint(2)", "hide-cell"),
    markdown("## Key points\n\n- One.\n\n## Further reading\n\n- Doe, [A: b](https://example.org) (2020): the why."),
]  # fmt: skip
FAULTS = {
    "no time": ("<a id=\"time\"></a>", "", test_its_opening_is_whole),
    "no key points": ("## Key points", "## Points", test_it_ends_with_exercises_key_points_and_further_reading),
    "no figure": ('<a id="fig-a"></a>', "", test_its_idea_is_a_figure_near_the_start),
    "an exercise more": ("2. How?", "2. How?\n3. When?", test_each_exercise_has_a_hidden_solution),
    "a solution of nothing": ("how\nprint(2)", "how", test_each_exercise_has_a_hidden_solution),
    "a solution without a name": ("# Exercise 2: how", "print()", test_each_exercise_has_a_hidden_solution),
    "long code": ("import sys", "import sys\n" * 26, test_code_that_is_seen_is_short),
    "a bare formula": ('<a id="eq-a"></a>\n\n', "", test_its_mathematics_is_a_numbered_equation),
    "a figure nobody mentions": ("[figure](#fig-a)", "it", test_figures_and_equations_are_referred_to),
    "a reference to nothing": ("#eq-a", "#eq-b", test_figures_and_equations_are_referred_to),
    "a caption under prose": ("See", '<a id="fig-b"></a>**Figure.** B.', test_a_caption_stands_below_its_figure),
    "a link to nowhere": ("02_data.ipynb", "02_date.ipynb", test_chapters_are_linked_where_they_are_named),
}  # fmt: skip


@pytest.mark.mutation
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_chapter_is_found(fault, monkeypatch):
    old, new, check = FAULTS[fault]
    for stem, (before, after) in {"sound": ("", ""), "faulty": (old, new)}.items():
        cells = [cell | {"source": cell["source"].replace(before, after, 1)} if before else cell for cell in SOUND]
        made = Chapter(cells)
        monkeypatch.setitem(globals(), "chapter", lambda _, made=made: made)
        if stem == "sound":
            check("99_sound")
        else:
            assert any(before in cell["source"] for cell in SOUND)
            with pytest.raises(AssertionError):
                check("99_sound")

"""What the book adds to Jupyter Book 1: repairs of its pages, and numbers that chapters do not type.

Repairs, so that pages load without errors and without a network:

1. sphinx-thebe registers its inline script twice, which is a syntax error in the browser. The book has no live cells,
   so its scripts and styles are dropped.
2. Without a default mode the theme logs an error for a first-time visitor.
3. Chapters run without progress bars: in a page they would be widgets that no kernel moves, and for which every page
   would load scripts from elsewhere.
4. autodoc writes ``<factory>`` for a default that a dataclass makes anew for each object.

Markdown that a chapter's author writes, chosen so that it reads well in plain Jupyter and Colab too:

- ``**Time to run:** <a id="time"></a>measured when the book is built...`` The words after the anchor give way to the
  seconds that the chapter took in this build, and alone in the workshop's profile.
- ``<a id="fig-name"></a>**Figure.** Caption.`` in the paragraph below a code cell makes that cell's last picture a
  numbered figure; ``[figure](#fig-name)`` becomes "Figure 9.2".
- ``<a id="eq-name"></a>`` in a line of its own above ``$$`` numbers the equation; ``[equation](#eq-name)`` becomes
  "Equation 9.1".
- ``[chapter 9](09_comparison.ipynb)`` is a plain link. A chapter's number is the one its file starts with.
- Terms of ``glossary.md`` are linked where a page first uses them. Those with an everyday meaning, too, (EVERYDAY) only
  where they are set in italics or bold.
"""

import dataclasses
import json
import os
import re
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

EVERYDAY = {"place", "run", "replay", "architecture", "simulated", "support"}
CLOSED = {"cell_output", "geonb-time"}  # classes of what holds no prose
ANCHOR = re.compile(r'<a id="((?:fig|eq)-[\w-]+|time)">')


def clean_page(app, pagename, templatename, context, doctree):
    """Drop thebe and scripts that are there twice; give the theme its default mode."""
    kept, seen = [], set()
    for script in context.get("script_files", []):
        name, body = str(getattr(script, "filename", script)), getattr(script, "attributes", {}).get("body", "")
        if "thebe" in (name + body).lower() or (name, body) in seen:
            continue
        seen.add((name, body))
        kept.append(script)
    context["script_files"] = kept
    context["css_files"] = [c for c in context.get("css_files", []) if "thebe" not in str(getattr(c, "filename", c))]
    context["default_mode"] = context.get("default_mode") or "auto"


# ---- figures, equations, times


class Anchors(SphinxTransform):
    """Turns anchors of figures, equations and times into what they stand for, and links to them into numbers."""

    default_priority = 400  # before Sphinx collects labels

    def apply(self, **_):
        for paragraph in list(self.document.findall(nodes.paragraph)):
            raw = next(iter(paragraph.findall(nodes.raw)), None)
            if raw is None or not (found := ANCHOR.match(raw.astext())):
                continue
            name = found[1]
            if name == "time":
                self.time(raw)
            elif name.startswith("eq-"):
                self.equation(paragraph, name)
            else:
                self.figure(paragraph, name)
        for link in list(self.document.findall(nodes.reference)):
            target = link.get("refuri", "")
            if link.get("id_link") and target.startswith(("#fig-", "#eq-")):
                domain, kind = ("std", "numref") if target.startswith("#fig-") else ("math", "eq")
                options = {"refdoc": self.env.docname, "refexplicit": False, "refwarn": True}
                word = nodes.inline("", link.astext())
                xref = addnodes.pending_xref("", word, refdomain=domain, reftype=kind, reftarget=target[1:], **options)
                link.replace_self(xref)

    def time(self, raw):
        """The words after the anchor, up to the end of the paragraph, become the measured time."""
        parent = raw.parent
        del parent.children[parent.index(raw) :]
        parent += nodes.Text(time_to_run(self.env))
        parent["classes"].append("geonb-time")

    def equation(self, paragraph, name):
        block = paragraph.next_node(nodes.math_block, descend=False, siblings=True, ascend=False)
        if block is None:
            raise ValueError(f"{self.env.docname}: no equation below {name}")
        domain = self.env.get_domain("math")
        domain.note_equation(self.env.docname, name, location=block)
        block["label"], block["number"] = name, domain.get_equation_number_for(name)
        block["ids"] = [nodes.make_id(f"equation-{name}")]
        block["docname"] = self.env.docname
        self.document.note_explicit_target(block)
        paragraph.parent.remove(paragraph)

    def figure(self, paragraph, name):
        """The last picture of the cell above goes into a figure, whose caption the paragraph becomes."""
        siblings = paragraph.parent.children
        above = siblings[siblings.index(paragraph) - 1]
        bundles = [c for c in above.findall(nodes.container) if c.get("nb_element") == "mime_bundle"]
        figure = nodes.figure(classes=["geonb-numbered"], names=[nodes.fully_normalize_name(name)])
        text = [n for n in paragraph.children if not isinstance(n, nodes.raw) and n.astext()]
        if text and isinstance(text[0], nodes.strong):  # the word "Figure.", which the number replaces
            text = text[1:]
        if text and isinstance(text[0], nodes.Text):
            text[0] = nodes.Text(text[0].lstrip())
        caption = nodes.caption("", "", *text)
        if bundles:
            bundles[-1].replace_self(figure)
            figure += [bundles[-1], caption]
            paragraph.parent.remove(paragraph)
        else:  # a build without outputs: the number and the caption stay
            paragraph.replace_self(figure)
            figure += caption
        self.document.note_explicit_target(figure, figure)


def time_to_run(env) -> str:
    """What the chapter took in this build, or, executed elsewhere, what its metadata say ({"seconds", "device"}); and
    what it took alone, in the workshop's profile, from the committed measurement."""
    from geonb import workspace

    executed = getattr(env, "nb_metadata", {}).get(env.docname, {}).get("exec_data") or {}
    path = Path(env.doc2path(env.docname))
    told = json.loads(path.read_text("utf-8"))["metadata"].get("geonb", {}) if path.suffix == ".ipynb" else {}
    seconds, device = executed.get("runtime"), None
    if not seconds:
        seconds, device = told.get("seconds"), told.get("device")
    if not seconds:
        return "not measured in this build."
    took = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} minutes"
    device = device or this_device()
    small = "" if workspace.profile() == "book" else f" with the {workspace.profile()} profile"
    gpu = "" if "GPU" in device else " Not measured on a GPU."
    shared = f"{took}{small} on {device}, when this page was built and the runs that all chapters share were there."
    measured = workspace.committed("workshop")
    if alone := measured["chapters"].get(path.stem):
        smaller = f"{alone['s']:.0f} s on {measured['cores']} CPU cores"
        shared += f" From nothing, with the smaller data and runs of a workshop: {smaller}."
    return shared + gpu


def this_device() -> str:
    """The GPU, or how many cores of which processor."""
    from geonb._util import cores, gpu, processor

    return f"one {gpu()} GPU" if gpu() else f"{cores()} CPU cores ({processor()})"


def number_by_file(app, env):
    """Chapters, their figures and equations take the number that the chapter's file starts with; others a letter."""
    for docname, toc in env.tocs.items():
        stem = docname.rsplit("/", 1)[-1]
        chapter = int(stem[:2]) if re.match(r"\d\d_", stem) else None
        for kind, numbers in env.toc_fignumbers.get(docname, {}).items():
            renumbered = {key: (chapter or stem[0].upper(), i) for i, key in enumerate(numbers, 1)}
            env.toc_fignumbers[docname][kind] = renumbered
        if chapter:
            env.toc_secnumbers[docname] = {}
            for i, reference in enumerate(toc.findall(nodes.reference)):
                number = (chapter,) if i == 0 else None
                reference["secnumber"] = env.toc_secnumbers[docname][reference["anchorname"]] = number
            env.titles[docname]["secnumber"] = (chapter,)
    return []


# ---- the glossary


def glossary_terms(text: str) -> dict[str, str]:
    """Terms of a Markdown definition list: pattern of its use in prose -> id."""
    terms = {}
    for line in re.findall(r"^(\S.*)\n: ", text, re.M):
        name, _, alias = line.partition(" (")
        for word in filter(None, (name, alias.rstrip(")"))):
            stem = re.escape(word[:-1]) + "(?:y|ies)" if word.endswith("y") else re.escape(word) + "s?"
            terms[rf"(?<![\w-]){stem}(?![\w-])".replace("@k", r"@\d+")] = nodes.make_id(f"term-{name}")
    return terms


class Glossary(SphinxTransform):
    """On the glossary's page terms get ids; on others the first use of a term in prose becomes a link to it."""

    default_priority = 410

    def apply(self, **_):
        folder, _, page = self.env.docname.rpartition("/")
        path = Path(self.env.srcdir) / folder / "glossary.md"
        if not path.exists():
            return
        if page == "glossary":
            for term in self.document.findall(nodes.term):
                term["names"] = [nodes.make_id(f"term-{term.astext().partition(' (')[0]}")]
                self.document.note_explicit_target(term, term)
            return
        self.env.note_dependency(str(path))
        terms = glossary_terms(path.read_text("utf-8"))
        for text in list(self.document.findall(prose)):
            self.link(text, terms)

    def link(self, text, terms):
        """Link the terms in one piece of text, and take them off those still to be linked."""
        emphasised = isinstance(text.parent, (nodes.emphasis, nodes.strong))
        found = {}
        for pattern, target in terms.items():
            if (match := re.search(pattern, text, re.I)) and (
                emphasised or target.removeprefix("term-") not in EVERYDAY
            ):
                if not any(match.start() < end and start < match.end() for start, end in found):
                    found[match.span()] = target
        if not found:
            return
        parts, at = [], 0
        for (start, end), target in sorted(found.items()):
            word = nodes.inline("", text[start:end], classes=["geonb-term"])
            options = {"refdoc": self.env.docname, "refexplicit": True, "refwarn": True}
            xref = addnodes.pending_xref("", word, refdomain="std", reftype="ref", reftarget=target, **options)
            parts += [nodes.Text(text[at:start]), xref]
            at = end
        parent, index = text.parent, text.parent.index(text)
        parent.remove(text)
        parent.insert(index, [part for part in (*parts, nodes.Text(text[at:])) if part.astext()])
        for pattern in [p for p, target in terms.items() if target in found.values()]:
            del terms[pattern]


def prose(node) -> bool:
    """Whether a node is text of a paragraph, outside links, code, captions and headings."""
    if not isinstance(node, nodes.Text):
        return False
    parent, inside = node.parent, False
    closed = (nodes.reference, addnodes.pending_xref, nodes.literal, nodes.math, nodes.raw, nodes.title, nodes.caption)
    closed += (addnodes.download_reference, nodes.table, nodes.literal_block)
    while parent is not None:
        if isinstance(parent, closed) or CLOSED & set(getattr(parent, "attributes", {}).get("classes", [])):
            return False
        inside = inside or isinstance(parent, nodes.paragraph)
        parent = parent.parent
    return inside


def name_factories(app, what, name, obj, options, signature, returns):
    """Defaults of a dataclass that are made anew for each object: ``{}`` and not ``<factory>``."""
    if signature and dataclasses.is_dataclass(obj):
        for field in dataclasses.fields(obj):
            if field.init and field.default_factory is not dataclasses.MISSING:
                signature = signature.replace("<factory>", repr(field.default_factory()), 1)
    return signature, returns


def setup(app):
    os.environ["GEONB_PROGRESS"] = "0"
    app.add_transform(Anchors)
    app.add_transform(Glossary)
    app.connect("env-get-updated", number_by_file, priority=600)
    app.connect("html-page-context", clean_page, priority=900)
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-signature", name_factories)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

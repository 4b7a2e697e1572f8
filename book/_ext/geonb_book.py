"""Repairs of what Jupyter Book 1 puts on every page, so that pages load without errors and without a network.

1. sphinx-thebe registers its inline script twice, which is a syntax error in the browser. The book has no live cells,
   so its scripts and styles are dropped.
2. Without a default mode the theme logs an error for a first-time visitor.
3. Chapters run without progress bars: in a page they would be widgets that no kernel moves, and for which every page
   would load scripts from elsewhere.
"""

import os


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


def setup(app):
    os.environ["GEONB_PROGRESS"] = "0"
    app.connect("html-page-context", clean_page, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

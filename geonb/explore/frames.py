"""A slider over pictures made beforehand; works in a static page."""

from __future__ import annotations

import base64
from html import escape

from geonb.explore.linked import safe_json

SCRIPT = """
document.querySelectorAll(".geonb-frames:not([data-frame])").forEach((root) => {
  const input = root.querySelector("input"), output = root.querySelector("output");
  const frames = root.querySelectorAll(".geonb-frame"), labels = JSON.parse(root.querySelector("script").textContent);
  function show() {
    frames.forEach((frame, k) => { frame.hidden = k !== Number(input.value); });
    output.textContent = labels[input.value];
    input.setAttribute("aria-valuetext", labels[input.value]);
    root.dataset.frame = input.value;
  }
  input.oninput = show;
  show();
});
"""
STYLE = (
    ".geonb-frames{margin:1rem 0}"
    ".geonb-frames-bar,.geonb-frames label{display:flex;flex-wrap:wrap;gap:4px 14px;align-items:center}"
    ".geonb-frames-bar{margin-bottom:8px}.geonb-frames output{font-weight:600}"
    ".geonb-frames input{width:min(320px,60vw);height:28px;margin:0;accent-color:#2f81c7;cursor:pointer}"
    ".geonb-frame[hidden]{display:none}.geonb-frame img,.geonb-frame svg{max-width:100%;height:auto}"
    "@media print{.geonb-frame[hidden]{display:block}}"
)


class FrameSlider:
    """The slider as HTML; shows itself in notebooks and in the book. Made by :func:`frame_slider`."""

    def __init__(self, html: str):
        self.html = html

    def _repr_html_(self) -> str:
        return self.html


def frame_slider(frames, labels, alts, name: str = "Frame") -> FrameSlider:
    """Show one of several pictures by a slider: pointer, touch and arrow keys, no kernel and no network.

    Args:
        frames: each an object with ``_repr_html_`` (a figure of :mod:`geonb.explore.figures`), a string of trusted
            HTML, PNG bytes, or an array uint8 (H, W, 3).
        labels: shown beside the slider, one for each frame.
        alts: what each frame shows, for those who do not see it.
        name: of the slider.

    Raises:
        ValueError: no frames, or not as many labels and alts as frames.
    """
    frames, labels, alts = list(frames), [str(t) for t in labels], [str(t) for t in alts]
    if not frames or not len(frames) == len(labels) == len(alts):
        raise ValueError(
            f"{len(frames)} frames, {len(labels)} labels and {len(alts)} alts do not match; at least 1 of each"
        )
    shown = "".join(
        f'<div class="geonb-frame" role="group" aria-label="{escape(alt)}"{" hidden" if k else ""}>'
        f"{_picture(frame, alt)}</div>"
        for k, (frame, alt) in enumerate(zip(frames, alts, strict=True))
    )
    return FrameSlider(
        f'<style>{STYLE}</style><div class="geonb-frames"><div class="geonb-frames-bar">'
        f"<label><span>{escape(name)}</span>"
        f'<input type="range" min="0" max="{len(frames) - 1}" value="0" step="1" autocomplete="off"></label>'
        f'<output aria-live="polite">{escape(labels[0])}</output></div>'
        f'<script type="application/json">{safe_json(labels)}</script>{shown}</div><script>{SCRIPT}</script>'
    )


def _picture(frame, alt: str) -> str:
    if hasattr(frame, "_repr_html_"):
        return frame._repr_html_()
    if isinstance(frame, str):
        return frame
    if not isinstance(frame, bytes):
        import io

        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "PNG")
        frame = buffer.getvalue()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(frame).decode()}">'

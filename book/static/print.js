// A page is printed in light colours and with its folded cells open, whatever the reader has chosen on screen. Where CSS
// can open folded cells on paper (geonb.css does), they are not opened here: Chromium would leave them blank.
(() => {
  const html = document.documentElement;
  const byStyle = CSS.supports("selector(::details-content)");
  let before;
  addEventListener("beforeprint", () => {
    const folded = byStyle ? [] : [...document.querySelectorAll(".bd-article details.hide:not([open])")];
    before ??= { theme: html.dataset.theme, mode: html.dataset.mode, folded };
    html.dataset.theme = html.dataset.mode = "light";
    for (const cell of folded) cell.open = true;
  });
  addEventListener("afterprint", () => {
    if (!before) return;
    html.dataset.theme = before.theme;
    html.dataset.mode = before.mode;
    for (const cell of before.folded) cell.open = false;
    before = undefined;
  });
})();

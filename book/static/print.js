// A page is printed in light colours and with its folded cells open, whatever the reader has chosen on screen.
(() => {
  const html = document.documentElement;
  let before;
  addEventListener("beforeprint", () => {
    const folded = [...document.querySelectorAll(".bd-article details:not([open])")];
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

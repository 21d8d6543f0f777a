// The theme's captions are headings without a level.
for (const caption of document.querySelectorAll(".caption[role=heading]")) {
  caption.ariaLevel = "2";
}
document.querySelector(".sidebar-drawer").ariaLabel = "Site";
document.querySelector(".toc-drawer").ariaLabel = "Page";

// tables.css shows the titles of columns on a phone.
for (const table of document.querySelectorAll("article table.docutils")) {
  const titles = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
  for (const row of titles.length > 2 ? table.tBodies[0].rows : []) {
    for (const [i, cell] of [...row.cells].entries()) {
      if (i && titles[i]) cell.dataset.title = titles[i];
    }
  }
}

// The keyboard reaches each region that scrolls.
const regions = document.querySelectorAll("article pre, article .table-wrapper");
const observer = new ResizeObserver((entries) => {
  for (const {target} of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
for (const region of regions) observer.observe(region);

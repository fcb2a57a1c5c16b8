// The filter. Without scripts the page is whole and the filter is not shown.
(() => {
  const form = document.getElementById("filter");
  const [text, loud] = form.querySelectorAll("input");
  const items = [...document.querySelectorAll(".f")];
  const words = new Map();
  const apply = () => {
    const wanted = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const item of items) {
      if (!words.has(item)) words.set(item, item.textContent.toLowerCase());
      const hit = wanted.every((word) => words.get(item).includes(word));
      item.hidden = !hit || (loud.checked && item.classList.contains("quiet"));
      shown += !item.hidden;
    }
    form.querySelector("output").value = wanted.length || loud.checked ? `${shown} of ${items.length} shown` : "";
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  // A link to something inside a closed part opens it.
  const reveal = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") target.open = true;
  };
  addEventListener("hashchange", reveal);
  reveal();
})();

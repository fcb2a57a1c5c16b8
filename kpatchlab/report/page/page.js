// Find, copy, keys, print. Without scripts the page is whole: what needs them is not shown.
(() => {
  const form = document.getElementById("find");
  const field = form.querySelector("[type=search]");
  const loud = form.elements.loud;
  const said = document.getElementById("said");
  const say = (text) => { said.textContent = text; };
  const MOST = 5000;

  const open = (node) => {
    for (let at = node; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  };

  // The places of a phrase below a root, also where it crosses elements, as ranges.
  const places = (root, phrase) => {
    const nodes = [], starts = [];
    let whole = "";
    const walk = document.createTreeWalker(root, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT, (node) =>
      node.nodeType === 3 ? NodeFilter.FILTER_ACCEPT
        : node.hidden || node.matches("button, svg, script, .l") ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_SKIP);
    while (walk.nextNode()) {
      nodes.push(walk.currentNode);
      starts.push(whole.length);
      whole += walk.currentNode.data;
    }
    // One sign must stay one sign, or the places would be off: that is not so for all of them in lower case.
    const lower = whole.replace(/[A-Z]+/g, (part) => part.toLowerCase());
    const ranges = [];
    let index = 0;
    const spot = (offset) => {
      while (index + 1 < starts.length && starts[index + 1] <= offset) index++;
      return [nodes[index], offset - starts[index]];
    };
    for (let at = lower.indexOf(phrase); at >= 0 && ranges.length < MOST; at = lower.indexOf(phrase, at + phrase.length)) {
      const range = document.createRange();
      range.setStart(...spot(at));
      range.setEnd(...spot(at + phrase.length - 1));
      range.setEnd(range.endContainer, range.endOffset + 1);
      ranges.push(range);
    }
    return ranges;
  };

  class Finder {
    constructor(root, field, output, name) { Object.assign(this, { root, field, output, name, ranges: [], at: -1 }); }
    look() {
      const phrase = this.field.value.trim().replace(/[A-Z]+/g, (part) => part.toLowerCase());
      this.ranges = phrase.length > 1 ? places(this.root, phrase) : [];
      this.at = -1;
      if (CSS.highlights) CSS.highlights.set(this.name, new Highlight(...this.ranges));
      this.tell(phrase);
    }
    tell(phrase) {
      const count = this.ranges.length;
      const total = count === MOST ? `more than ${MOST}` : count;
      this.output.value = phrase && phrase.length < 2 ? "two letters at least"
        : !phrase ? "" : !count ? "not found" : this.at < 0 ? `${total} found` : `${this.at + 1} of ${total}`;
    }
    step(by) {
      const count = this.ranges.length;
      if (!count) return;
      this.at = this.at < 0 ? (by > 0 ? 0 : count - 1) : (this.at + by + count) % count;
      const range = this.ranges[this.at];
      open(range.startContainer.parentElement);
      const chosen = getSelection();
      chosen.removeAllRanges();
      chosen.addRange(range);
      range.startContainer.parentElement.scrollIntoView({ block: "center", inline: "nearest" });
      this.tell(this.field.value);
    }
    listen() {
      let timer;
      this.field.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => this.look(), 150); });
      this.field.addEventListener("keydown", (event) => {
        if (event.key === "Enter") { event.preventDefault(); clearTimeout(timer); if (this.at < 0) this.look(); this.step(event.shiftKey ? -1 : 1); }
        if (event.key === "Escape") { this.field.value = ""; this.look(); this.field.blur(); }
      });
    }
  }

  const finder = new Finder(document.getElementById("main"), field, form.querySelector("output"), "find");
  finder.listen();
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const button of form.querySelectorAll("button[value]"))
    button.addEventListener("click", () => { if (finder.at < 0) finder.look(); finder.step(+button.value); });
  loud.addEventListener("change", () => {
    const items = document.querySelectorAll(".f.quiet");
    for (const item of items) item.hidden = loud.checked;
    say(loud.checked ? `${items.length} hidden` : "all shown");
    finder.look();
  });
  form.elements.all.addEventListener("click", (event) => {
    const parts = [...document.querySelectorAll("#matrix .y, #matrix .g")];
    const closed = parts.some((part) => part.tagName === "DETAILS" && !part.open);
    for (const part of parts) part.open = closed;
    event.target.textContent = closed ? "close all scenarios" : "open all scenarios";
  });
  form.hidden = false;

  // Commands: copied where the browser lets us, else chosen, so that Ctrl+C copies them.
  const copy = async (code, button) => {
    const range = document.createRange();
    range.selectNodeContents(code);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    let done = true;
    try { await navigator.clipboard.writeText(code.textContent); } catch { done = document.execCommand("copy"); }
    button.textContent = done ? "copied" : "press Ctrl+C";
    say(done ? "The command is copied." : "The command is chosen: press Ctrl+C.");
    setTimeout(() => { button.textContent = "copy"; }, 3000);
  };
  // A console's own find box, and the buttons, are made when their part is first opened.
  const equip = (root) => {
    for (const code of root.querySelectorAll(".cmd > code:only-child")) {
      if (code.closest("details:not([open])")) continue;
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: "copy" });
      button.setAttribute("aria-label", `copy ${code.textContent.slice(0, 200)}`);
      button.addEventListener("click", () => copy(code, button));
      code.after(" ", button);
    }
    const log = root.matches(".log[open]") && root.querySelector("pre");
    if (!log || root.querySelector("input")) return;
    const label = Object.assign(document.createElement("label"), { className: "in", textContent: "Find here " });
    const input = Object.assign(document.createElement("input"), { type: "search", autocomplete: "off" });
    const output = document.createElement("output");
    label.append(input);
    log.before(label, " ", output);
    new Finder(log, input, output, "find-here").listen();
  };
  document.addEventListener("toggle", (event) => { if (event.target.open) equip(event.target); }, true);
  equip(document.body);

  // A link to something inside a closed part opens it.
  const reveal = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    open(target);
    target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  document.addEventListener("click", (event) => { if (event.target.closest?.('a[href^="#"]')) setTimeout(reveal); });
  reveal();

  addEventListener("keydown", (event) => {
    const at = document.activeElement;
    if (event.ctrlKey || event.altKey || event.metaKey || at?.matches("input, textarea")) return;
    if (event.key === "/") { event.preventDefault(); field.focus(); field.select(); return; }
    if (!at?.matches("#matrix summary.row")) return;
    const part = at.parentElement;
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      if (event.key === "ArrowLeft" && !part.open) part.parentElement.closest(".y")?.querySelector("summary").focus();
      part.open = event.key === "ArrowRight";
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const rows = [...document.querySelectorAll("#matrix summary.row")].filter((row) => row.checkVisibility());
      rows[rows.indexOf(at) + (event.key === "ArrowDown" ? 1 : -1)]?.focus();
    } else return;
    event.preventDefault();
  });

  // In print what changed is told whole; consoles stay behind.
  let shut = [];
  addEventListener("beforeprint", () => {
    shut = [...document.querySelectorAll("#changes .c:not([open])")];
    for (const part of shut) part.open = true;
  });
  addEventListener("afterprint", () => { for (const part of shut) part.open = false; });
})();

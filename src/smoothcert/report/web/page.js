"use strict";
(() => {
  // Texts of files reach the page only as text nodes and attributes, never as HTML.
  const SVG = "http://www.w3.org/2000/svg";
  // Shapes follow the order of the methods, so that colour-blind users can distinguish them.
  const SHAPES = [
    "M0,-1A1,1,0,1,1,0,1A1,1,0,1,1,0,-1Z", "M-.9,-.9H.9V.9H-.9Z", "M0,-1.1L1,.8H-1Z",
    "M0,-1.2L.9,0L0,1.2L-.9,0Z", "M0,1.1L1,-.8H-1Z",
    "M-.35,-1H.35V-.35H1V.35H.35V1H-.35V.35H-1V-.35H-.35Z", "M-1.2,0L.8,-1V1Z",
  ];
  const DASHES = [[], [7, 3], [2, 2.5], [9, 3, 2, 3], [4, 2], [12, 4], [1, 3]];
  const OUTCOMES = [
    { text: "right", kind: "right" }, { text: "wrong", kind: "wrong" },
    { text: "abstained", kind: "abstained" }, { text: "wrong (given up)", kind: "wrong" },
  ];
  const KINDS = ["all", "right", "wrong", "abstained"];
  const CARDS = 60;
  const CROWD = 12;
  const NOTHING = "–";

  const made = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === true) element.setAttribute(key, "");
      else if (value !== false && value !== null) element.setAttribute(key, String(value));
    }
    element.append(...children);
    return element;
  };
  /* Allow line breaks between the parts of long names. */
  const breakable = (text) => text.split(/(?<=[_./=,])(?=[^\d])/).flatMap((part) => [part, made("wbr")]);
  const read = (name) => JSON.parse(document.getElementById(name).textContent);
  const percent = (share) => `${(100 * share).toFixed(1)}%`;
  const sigmaText = (sigma) => (sigma === null ? "σ not recorded" : `σ = ${sigma}`);
  const runText = (run, sigma) =>
    [run.of, sigmaText(sigma), run.seed === null ? null : `seed ${run.seed}`].filter(Boolean).join(", ");

  let names = 0;
  const choice = (title, options, chosen, changed) => {
    const name = `choice-${++names}`;
    const labels = options.map(([value, text]) => {
      const input = made("input", { type: "radio", name, value, checked: value === chosen });
      input.addEventListener("change", () => changed(value));
      return made("label", {}, input, text);
    });
    return made("fieldset", {}, made("legend", {}, title), made("div", { class: "choices" }, ...labels));
  };
  const selection = (title, options, changed) => {
    const select = made("select", {}, ...options.map(([value, text]) => made("option", { value }, text)));
    select.addEventListener("change", () => changed(select.value));
    return made("label", { class: "chosen" }, made("span", {}, title), select);
  };
  const pressed = (text, action) => {
    const button = made("button", { type: "button" }, text);
    button.addEventListener("click", action);
    return button;
  };

  // Curves.

  const shareAt = (curve, radius) => {
    let low = 0, high = curve.radius.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (curve.radius[middle] < radius) low = middle + 1;
      else high = middle;
    }
    return low < curve.share.length ? curve.share[low] : 0;
  };

  const swatch = (line) => {
    const svg = document.createElementNS(SVG, "svg");
    const part = (name, attributes) => {
      const element = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      svg.append(element);
    };
    svg.setAttribute("viewBox", "0 0 38 12");
    svg.setAttribute("aria-hidden", "true");
    part("line", { x1: 0, x2: 38, y1: 6, y2: 6, stroke: line.colour, "stroke-width": 2, "stroke-dasharray": line.dash.join(" ") });
    part("path", { d: line.shape, transform: "translate(19 6) scale(4)", fill: line.colour });
    return svg;
  };

  const chartSpec = (limit) => {
    const axis = { titleColor: "var(--ink)", labelColor: "var(--muted)", domainColor: "var(--edge)", tickColor: "var(--edge)", gridColor: "var(--rule)", grid: true, titleFontWeight: 600, titleFontSize: 13, labelFontSize: 12, titlePadding: 8 };
    const pale = "!crowd || near === null || datum.line === near ? 1 : 0.25";
    const place = { x: { scale: "x", field: "radius" }, y: { scale: "y", field: "share" } };
    return {
      autosize: { type: "fit", contains: "padding" },
      padding: 4,
      config: { background: null, axis: { labelFont: "system-ui, sans-serif", titleFont: "system-ui, sans-serif" } },
      // Among many lines the pointer's line stands out because the others are pale.
      signals: [{ name: "near", value: null }, { name: "crowd", value: false }],
      data: [{ name: "points" }, { name: "shapes" }, { name: "cursor" }],
      scales: [
        { name: "x", type: "linear", domain: [0, limit], range: "width" },
        { name: "y", type: "linear", domain: [0, 1], range: "height" },
      ],
      axes: [
        { ...axis, orient: "bottom", scale: "x", title: "ℓ2 radius", tickCount: 8, grid: false },
        { ...axis, orient: "left", scale: "y", title: "certified accuracy", format: ".0%", tickCount: 5 },
      ],
      marks: [
        {
          type: "rule", from: { data: "cursor" },
          encode: { update: { x: { scale: "x", field: "radius" }, y: { value: 0 }, y2: { signal: "height" }, stroke: { value: "var(--edge)" }, strokeWidth: { value: 1 } } },
        },
        {
          type: "group", from: { facet: { name: "line", data: "points", groupby: "line" } },
          marks: [{
            type: "line", from: { data: "line" },
            // Certified accuracy falls directly after each image's radius.
            encode: { update: { ...place, interpolate: { value: "step-before" }, stroke: { field: "colour" }, strokeDash: { field: "dash" }, strokeWidth: { signal: "datum.line === near ? 3.5 : crowd ? 1.2 : 1.8" }, strokeOpacity: { signal: pale } } },
          }],
        },
        {
          type: "symbol", from: { data: "shapes" },
          encode: { update: { ...place, shape: { field: "shape" }, size: { signal: "datum.line === near ? 90 : crowd ? 22 : 45" }, fill: { field: "colour" }, fillOpacity: { signal: pale } } },
        },
      ],
    };
  };

  class Curves {
    constructor(place, data) {
      this.data = data;
      this.shown = "methods";
      this.bound = "certified";
      this.off = new Set();
      this.radius = data.radii.filter((radius) => radius <= 0.5).pop() ?? 0;
      this.lines = data.lines.map((line, number) => this.styled(line, number));
      this.build(place);
      this.embed().then(() => this.fill());
    }

    styled(line, number) {
      const method = this.data.methods.find(({ name }) => name === line.of).place;
      const kind = line.run !== undefined ? "runs" : line.sigma !== undefined ? "groups" : "methods";
      return {
        ...line, number, kind,
        colour: `var(--series-${method})`,
        shape: SHAPES[method % SHAPES.length],
        dash: line.sigma === undefined ? [] : DASHES[line.sigma % DASHES.length],
      };
    }

    text(line) {
      if (line.kind === "methods") return [line.of, ""];
      const sigma = sigmaText(this.data.sigmas[line.sigma]);
      if (line.kind === "groups") return [sigma, line.seeds > 1 ? `mean of ${line.seeds} seeds` : ""];
      return [line.run, [sigma, line.seed === null ? null : `seed ${line.seed}`].filter(Boolean).join(", ")];
    }

    build(place) {
      this.canvas = made("div", { class: "canvas", role: "img", "aria-label": "Curves of certified accuracy by radius; the list next to them has their values." });
      this.tip = made("div", { class: "tip", hidden: true });
      this.list = made("ul", { class: "lines" });
      this.note = made("p", { class: "quiet" });
      const chart = made("div", { class: "chart" }, this.canvas, this.tip);
      const side = made("fieldset", {}, made("legend", {}, "Curves, with the accuracy at the radius (at most 0.2 points too low)"), this.reader(), this.everything(), this.list);
      place.append(made("div", { class: "controls" }, ...this.switches()), this.note, made("div", { class: "drawn" }, chart, side));
    }

    /* Make the chart. Its tooltips are made here as text, not as HTML by the library. */
    async embed() {
      const options = { mode: "vega", renderer: "svg", actions: false, tooltip: false, hover: false, defaultStyle: false };
      const spec = { ...chartSpec(this.data.limit), width: this.canvas.clientWidth, height: this.canvas.clientHeight };
      this.view = (await vegaEmbed(this.canvas, spec, options)).view;
      new ResizeObserver(() => { this.size(); this.view.runAsync(); }).observe(this.canvas);
      this.canvas.addEventListener("pointermove", (event) => this.point(event));
      this.canvas.addEventListener("pointerdown", (event) => this.point(event));
      this.canvas.addEventListener("pointerleave", () => this.leave());
    }

    switches() {
      const several = [["methods", "Methods: best σ at each radius"], ["groups", "Methods by σ"], ["runs", "Runs"]];
      const views = this.data.sigmas.length > 1 ? several : [["methods", "Methods"], ["runs", "Runs"]];
      const found = [choice("Curves", views, this.shown, (value) => { this.shown = value; this.fill(); })];
      if (this.data.bounds.length > 1) {
        const bounds = [["certified", `${this.data.bounds[0]}, as certified`], ["again", `${this.data.bounds[1]}, on the same votes`]];
        found.push(choice("Bound", bounds, this.bound, (value) => { this.bound = value; this.fill(); }));
      }
      return found;
    }

    reader() {
      this.output = made("output", {});
      this.slider = made("input", { type: "range", min: 0, max: this.data.limit, step: 0.01, value: this.radius });
      this.slider.addEventListener("input", () => this.move(Number(this.slider.value)));
      return made("label", { class: "reader" }, "Radius", this.slider, this.output);
    }

    everything() {
      const all = pressed("All", () => { this.off.clear(); this.fill(); });
      const none = pressed("None", () => { this.data.methods.forEach(({ name }) => this.off.add(name)); this.fill(); });
      return made("div", { class: "buttons" }, all, none);
    }

    curve(line) { return line[this.bound] ?? line.certified; }
    isOn(line) { return line.kind === this.shown && !this.off.has(line.of) && !this.off.has(line.number); }
    visible() { return this.lines.filter((line) => this.isOn(line)); }

    /* Rebuild the list of curves. */
    fill() {
      this.entries = new Map();
      this.list.replaceChildren(...this.data.methods.map(({ name }) => this.entriesOf(name)));
      const alone = this.bound === "again" && this.lines.some((line) => line.kind === this.shown && !line.again);
      this.leave();
      this.note.textContent = alone ? "Curves without votes to recompute are drawn as certified." : "";
      this.draw();
    }

    entriesOf(method) {
      const lines = this.lines.filter((line) => line.of === method && line.kind === this.shown);
      if (this.shown === "methods") return made("li", {}, this.entry(lines[0], method));
      const whole = made("label", { class: "whole" }, this.box(method), made("span", {}, method));
      return made("li", {}, whole, made("ul", {}, ...lines.map((line) => made("li", {}, this.entry(line, line.number)))));
    }

    box(key) {
      const box = made("input", { type: "checkbox", checked: !this.off.has(key) });
      box.addEventListener("change", () => { this.off[box.checked ? "delete" : "add"](key); this.draw(); });
      return box;
    }

    entry(line, key) {
      const [name, detail] = this.text(line);
      const value = made("span", { class: "value" });
      const text = made("span", { class: "name" }, ...breakable(name), ...(detail ? [made("small", {}, detail)] : []));
      const label = made("label", {}, this.box(key), swatch(line), text, value);
      this.entries.set(line.number, { label, value });
      return label;
    }

    draw() {
      const points = [], shapes = [];
      for (const line of this.visible()) {
        const { radius, share } = this.curve(line);
        const { number, colour, dash, shape } = line;
        radius.forEach((each, place) => points.push({ line: number, radius: each, share: share[place], colour, dash }));
        points.push({ line: number, radius: radius[radius.length - 1], share: 0, colour, dash });
        for (const each of this.data.radii) {
          if (each <= radius[radius.length - 1]) shapes.push({ line: number, radius: each, share: shareAt(this.curve(line), each), colour, shape });
        }
      }
      this.view.signal("crowd", this.visible().length > CROWD).data("points", points).data("shapes", shapes);
      this.move(this.radius);
    }

    move(radius) {
      this.radius = radius;
      this.slider.value = radius;
      this.output.textContent = radius.toFixed(3);
      for (const [number, { label, value }] of this.entries) {
        const on = this.isOn(this.lines[number]);
        label.classList.toggle("off", !on);
        value.textContent = on ? percent(shareAt(this.curve(this.lines[number]), radius)) : "";
      }
      this.view.data("cursor", [{ radius }]).runAsync();
    }

    point(event) {
      const box = this.canvas.getBoundingClientRect();
      const [left, top] = this.view.origin();
      const x = event.clientX - box.left, y = event.clientY - box.top;
      const radius = Math.min(this.data.limit, Math.max(0, this.view.scale("x").invert(x - left)));
      this.mark(this.nearest(radius, this.view.scale("y").invert(y - top)));
      this.move(Math.round(radius * 1000) / 1000);
      this.explain(x, y, box.width);
    }

    nearest(radius, share) {
      const away = (line) => Math.abs(shareAt(this.curve(line), radius) - share);
      return this.visible().reduce((best, line) => (best === null || away(line) < away(best) ? line : best), null);
    }

    mark(line) {
      this.near = line;
      for (const [number, { label }] of this.entries) label.classList.toggle("near", number === line?.number);
      this.view.signal("near", line?.number ?? null);
    }

    explain(x, y, width) {
      this.tip.hidden = this.near === null;
      if (this.near === null) return;
      const [name, detail] = this.text(this.near);
      const own = this.near.kind === "groups" ? `${this.near.of}, ${name}` : name;
      const share = percent(shareAt(this.curve(this.near), this.radius));
      this.tip.replaceChildren(made("strong", {}, `${share} at radius ${this.radius.toFixed(3)}`), own, made("small", {}, detail && ` ${detail}`));
      this.tip.style.top = `${y + 14}px`;
      this.tip.style.left = x > width / 2 ? "auto" : `${x + 14}px`;
      this.tip.style.right = x > width / 2 ? `${width - x + 14}px` : "auto";
    }

    leave() {
      this.tip.hidden = true;
      this.mark(null);
      this.view.runAsync();
    }

    size() {
      this.view.width(this.canvas.clientWidth).height(this.canvas.clientHeight);
    }
  }

  // Settings.

  const settings = (place, data) => {
    const rows = data.parts.flatMap((part) => part.rows);
    const differing = rows.filter((row) => row.differs).length;
    const table = made("table", { class: "compared" }, made("caption", { class: "unseen" }, "Settings of the runs side by side"), settingsHead(data), ...data.parts.filter((part) => part.rows.length).map((part) => settingsPart(part, data.runs.length)));
    const box = made("div", { class: "compared-box", role: "region", tabindex: 0, "aria-label": "Settings of the runs" }, table);
    const only = made("input", { type: "checkbox", checked: differing > 0 });
    only.addEventListener("change", () => table.classList.toggle("only", only.checked));
    table.classList.toggle("only", only.checked);
    const text = differing ? `${differing} of ${rows.length} settings differ.` : "The recorded settings of the runs do not differ.";
    place.append(made("label", { class: "check" }, only, "Only differences"), made("p", { class: "quiet" }, `${text} Values that differ from most runs are marked.`), box);
  };

  const settingsHead = (data) =>
    made("thead", {}, made("tr", {}, made("th", { scope: "col" }, "setting"), ...data.runs.map((run) =>
      made("th", { scope: "col" }, ...breakable(run.run), made("small", {}, runText(run, run.sigma))))));

  const settingsPart = (part, runs) => {
    const same = part.rows.every((row) => !row.differs);
    const head = made("tr", { class: same ? "part same" : "part" }, made("th", { scope: "rowgroup" }, part.name), made("th", { colspan: runs }));
    return made("tbody", {}, head, ...part.rows.map((row) => made("tr", { class: row.differs ? "differs" : "same" }, made("th", { scope: "row" }, ...breakable(row.name)), ...row.of.map((text) =>
      made("td", { class: row.usual !== null && text !== row.usual ? "apart" : null }, row.texts[text] ?? NOTHING)))));
  };

  // Certificates.

  const pictures = new Map();
  const picturesOf = (name) => {
    if (name === null) return null;
    if (!pictures.has(name)) {
      const found = read(`thumbnails-${name}`);
      found.places = new Map(found.indices.map((index, place) => [index, place]));
      const style = made("style");
      document.head.append(style);
      // The name has hexadecimal digits only, and the address base64 characters only.
      style.sheet.insertRule(`.sheet-${name} { background-image: url("${found.address}"); }`);
      pictures.set(name, found);
    }
    return pictures.get(name);
  };

  const picture = (sheet, index) => {
    const place = sheet?.places.get(index);
    if (place === undefined) return made("div", { class: "picture", "aria-hidden": "true" }, `#${index}`);
    const [width, height] = sheet.tile;
    const exact = 64 / Math.max(width, height);
    const scale = exact >= 1 ? Math.round(exact) : exact;
    const tile = made("div", { class: `sheet-${sheet.name}`, role: "img", "aria-label": `image ${index}` });
    const left = (place % sheet.columns) * width * scale;
    const top = Math.floor(place / sheet.columns) * height * scale;
    Object.assign(tile.style, {
      width: `${width * scale}px`, height: `${height * scale}px`,
      backgroundSize: `${sheet.sheet[0] * scale}px ${sheet.sheet[1] * scale}px`,
      backgroundPosition: `-${left}px -${top}px`,
    });
    return made("div", { class: "picture" }, tile);
  };

  class Gallery {
    constructor(place, data) {
      this.data = data;
      this.kind = "all";
      this.order = "largest";
      this.build(place);
      this.choose(0);
    }

    build(place) {
      const runs = this.data.runs.map((run, number) => [number, `${run.run} (${runText(run, run.sigma)})`]);
      const orders = [["largest", "radius, largest first"], ["smallest", "radius, smallest first"], ["index", "index of the image"]];
      this.filters = made("div", { class: "buttons", role: "group", "aria-label": "Outcome" });
      this.status = made("p", { class: "quiet", role: "status" });
      this.cards = made("ul", { class: "cards" });
      this.more = pressed("Show more", () => this.append());
      place.append(
        made("div", { class: "controls" },
          selection("Run", runs, (value) => this.choose(Number(value))),
          selection("Sorted by", orders, (value) => { this.order = value; this.show(); }), this.filters),
        this.status, this.cards, this.more);
    }

    choose(number) {
      this.run = this.data.runs[number];
      this.columns = read(`certificates-${this.run.certificates}`);
      this.sheet = picturesOf(this.run.thumbnails);
      this.names = this.data.classes[this.run.classes];
      this.filters.replaceChildren(...KINDS.map((kind) => this.filter(kind)));
      this.show();
    }

    filter(kind) {
      const count = this.places(kind).length.toLocaleString("en");
      const button = pressed(`${kind} ${count}`, () => {
        this.kind = kind;
        for (const each of this.filters.children) each.setAttribute("aria-pressed", String(each === button));
        this.show();
      });
      button.setAttribute("aria-pressed", String(kind === this.kind));
      return button;
    }

    value(column, place) {
      const values = this.columns[column];
      return Array.isArray(values) ? values[place] : values;
    }

    places(kind) {
      const all = [...this.columns.index.keys()];
      return kind === "all" ? all : all.filter((place) => OUTCOMES[this.value("outcome", place)].kind === kind);
    }

    show() {
      const index = (place) => this.columns.index[place];
      const radius = (place) => this.value("radius", place) ?? -1;
      const sign = { largest: -1, smallest: 1, index: 0 }[this.order];
      this.sorted = this.places(this.kind).sort((a, b) => sign * (radius(a) - radius(b)) || index(a) - index(b));
      this.cards.replaceChildren();
      this.append();
    }

    append() {
      const start = this.cards.children.length;
      this.cards.append(...this.sorted.slice(start, start + CARDS).map((place) => this.card(place)));
      const shown = this.cards.children.length, all = this.sorted.length;
      this.more.hidden = shown >= all;
      this.status.textContent = `${shown.toLocaleString("en")} of ${all.toLocaleString("en")} certificates shown`;
      // The keyboard focus moves to the first new card.
      if (start) this.focus(start);
    }

    focus(place) {
      const card = this.cards.children[place];
      card?.setAttribute("tabindex", "-1");
      card?.focus({ preventScroll: true });
    }

    className(label) { return this.names[label] ?? String(label); }

    card(place) {
      const index = this.columns.index[place];
      const outcome = OUTCOMES[this.value("outcome", place)];
      const predicted = this.value("predicted", place);
      // With all digits of the file: a rounded radius may be larger than the certified one.
      const decimals = (column) => this.value(column, place)?.toFixed(6) ?? NOTHING;
      const facts = [
        ["label", this.className(this.value("label", place))],
        ["predicted", predicted < 0 ? NOTHING : this.className(predicted)],
        ["radius", decimals("radius")], ["p_A at least", decimals("lower")], ["p_B at most", decimals("upper")],
        ["samples", this.value("samples", place)?.toLocaleString("en") ?? NOTHING],
      ].flatMap(([name, text]) => [made("dt", {}, name), made("dd", {}, text)]);
      return made("li", { class: `card ${outcome.kind}` }, picture(this.sheet, index),
        made("div", {}, made("h4", {}, `#${index}`, made("span", {}, outcome.text)), made("dl", {}, ...facts)));
    }
  }

  // Tables.

  const pieces = (text) => text.split(/(\d+(?:\.\d+)?)/);
  /* Compare texts by the numbers in them, decimals too; a number alone may be negative. */
  const compared = (first, second) => {
    const difference = Number(first) - Number(second);
    if (!Number.isNaN(difference)) return difference;
    const [a, b] = [pieces(first), pieces(second)];
    for (let place = 0; place < Math.min(a.length, b.length); place++) {
      const order = place % 2 ? a[place] - b[place] : a[place].localeCompare(b[place], "en");
      if (order) return order;
    }
    return a.length - b.length;
  };

  const sort = (table, head) => {
    const place = [...head.parentNode.children].indexOf(head);
    const rising = head.getAttribute("aria-sort") === "descending" || (!head.hasAttribute("aria-sort") && !head.classList.contains("number"));
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const value = (row) => row.cells[place].dataset.value;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [first, second] = [value(a), value(b)];
      // Empty cells are last in either order.
      if (first === undefined || second === undefined) return (first === undefined) - (second === undefined);
      return (rising ? 1 : -1) * compared(first, second);
    });
    table.tBodies[0].append(...rows);
  };

  for (const table of document.querySelectorAll(".sortable")) {
    for (const head of table.tHead.rows[0].cells) head.firstElementChild.addEventListener("click", () => sort(table, head));
  }

  // A part is built when it is about to become visible.

  const BUILDERS = {
    curves: (place, data) => new Curves(place, data),
    settings,
    gallery: (place, data) => new Gallery(place, data),
  };
  const build = (place) => {
    if (place.dataset.built) return;
    place.dataset.built = "true";
    const { build: what, section } = place.dataset;
    BUILDERS[what](place, read(`${what}-${section}`));
  };
  const parts = [...document.querySelectorAll("[data-build]")];
  const observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      build(target);
    }
  }, { rootMargin: "300px" });
  parts.forEach((place) => observer.observe(place));
  addEventListener("beforeprint", () => parts.forEach(build));
})();

/* Measures the visible elements of a page. Evaluated in an isolated world of the page, where the page's
   scripts cannot change the functions used here.

   The file is one expression: an object of functions. Only geometry and element kinds leave the page,
   never text, attributes or values of forms. */
({
  KINDS: {
    nav: "nav", header: "header", footer: "footer", main: "main", aside: "aside", section: "section",
    article: "article", form: "form", table: "table", tr: "row", td: "cell", th: "cell", ul: "list",
    ol: "list", dl: "list", li: "item", dt: "item", dd: "item", h1: "heading", h2: "heading",
    h3: "heading", h4: "heading", h5: "heading", h6: "heading", p: "text", pre: "text",
    blockquote: "text", label: "label", a: "link", button: "button", summary: "button",
    input: "input", textarea: "textarea", select: "select", img: "image", svg: "image",
    object: "image", embed: "image", video: "video", audio: "video", canvas: "canvas",
    iframe: "frame", frame: "frame", figure: "figure", hr: "divider", progress: "progress",
    meter: "progress", menu: "menu", dialog: "dialog",
  },
  ROLES: {
    navigation: "nav", banner: "header", contentinfo: "footer", main: "main", complementary: "aside",
    form: "form", search: "form", table: "table", grid: "table", row: "row", cell: "cell",
    gridcell: "cell", list: "list", listitem: "item", heading: "heading", link: "link",
    button: "button", textbox: "input", checkbox: "checkbox", radio: "radio", img: "image",
    separator: "divider", progressbar: "progress", tab: "tab", menu: "menu", dialog: "dialog",
    alertdialog: "dialog",
  },
  INPUTS: {
    button: "button", submit: "button", reset: "button", image: "button", checkbox: "checkbox",
    radio: "radio",
  },
  // Elements that are never drawn, though some have a box.
  UNSEEN: new Set([
    "head", "script", "style", "noscript", "template", "meta", "link", "title", "base", "br", "wbr",
    "map", "area", "datalist", "param", "source", "track",
  ]),
  LEAVES: new Set([
    "img", "svg", "video", "audio", "canvas", "select", "textarea", "input", "progress", "meter",
    "object", "embed",
  ]),
  BACKDROP_ELEMENTS: 10, // a fixed element over the whole window with no more is a preloader

  /* Return {width, height, elements, complete, isBlank, boxes} with boxes of [parent, x0, y0, x1, y1,
     kind] in preorder and px of the page; parent is a row of boxes or -1. Not complete: stopped at
     maxElements. isBlank: no element but the document and its body is visible. */
  walk({ maxHeight, maxElements }) {
    const top = document.scrollingElement || document.documentElement;
    const width = innerWidth;
    const height = Math.min(maxHeight, Math.max(innerHeight, top.scrollHeight));
    const page = [0, 0, width, height];
    const place = { x: scrollX, y: scrollY, scale: 1 };
    const boxes = [];
    let isBlank = true;
    const stack = [this.visitOf(document.documentElement, -1, place, page)];
    let elements = 0;
    while (stack.length && elements < maxElements) {
      elements += 1;
      const { length } = boxes;
      const visit = stack.pop();
      const children = this.visit(visit, boxes);
      if (boxes.length > length && !this.isRootOrBody(visit.element)) isBlank = false;
      for (let n = children.length - 1; n >= 0; n--) stack.push(children[n]);
    }
    return { width, height, elements, complete: !stack.length, isBlank, boxes };
  },

  isRootOrBody(element) {
    const { documentElement, body } = element.ownerDocument;
    return element === documentElement || element === body;
  },

  /* A visit: an element, the row of its parent's box, the place of its document on the page, and the
     rectangles that clip it if it is in the flow, absolute or fixed. */
  visitOf(element, parent, place, clip) {
    return { element, parent, place, flow: clip, absolute: clip, fixed: clip };
  },

  /* Append the element's box to boxes if it is visible; return the visits of its children. */
  visit(visit, boxes) {
    const { element, place } = visit;
    const tag = element.localName;
    if (this.UNSEEN.has(tag)) return [];
    const style = element.ownerDocument.defaultView.getComputedStyle(element);
    if (style.display === "none") return [];
    if (style.display === "contents") return this.children(element, visit, visit.parent, visit);
    if (this.isHidden(element, style)) return [];
    const rectangle = this.rectangleOf(element, place);
    const position = style.position;
    const own = position === "fixed" ? visit.fixed : position === "absolute" ? visit.absolute : visit.flow;
    const visible = this.intersection(rectangle, own);
    let parent = visit.parent;
    const isRoot = element === element.ownerDocument.documentElement;
    if (style.visibility === "visible" && visible[2] > visible[0] && visible[3] > visible[1]) {
      parent = boxes.push([parent, ...visible, isRoot ? null : this.kindOf(element, tag)]) - 1;
    }
    if (this.LEAVES.has(tag)) return [];
    if (tag === "iframe" || tag === "frame") return this.frame(element, parent, place, own, style);
    const isBody = element === element.ownerDocument.body;
    // The overflow of the root and the body is that of the window, which scrolls.
    const inner = isRoot || isBody ? own : this.clipped(rectangle, own, style);
    const holdsFixed = this.holdsFixed(style);
    return this.children(element, visit, parent, {
      flow: inner,
      absolute: holdsFixed || position !== "static" ? inner : visit.absolute,
      fixed: holdsFixed ? inner : visit.fixed,
    });
  },

  children(element, { place }, parent, { flow, absolute, fixed }) {
    let children = element.shadowRoot ? element.shadowRoot.children : element.children;
    if (element.localName === "slot") {
      const assigned = element.assignedElements({ flatten: true });
      // A slot with text alone has no elements, but its fallback is not shown either.
      if (assigned.length || element.assignedNodes().length) children = assigned;
    }
    return Array.from(children, (child) => ({ element: child, parent, place, flow, absolute, fixed }));
  },

  frame(element, parent, place, clip, style) {
    let inner = null;
    try {
      inner = element.contentDocument && element.contentDocument.documentElement;
    } catch (error) {
      // A frame from another origin: its box is a leaf.
    }
    // The document of a frame that was not loaded is empty.
    if (!inner || !inner.ownerDocument.body?.childElementCount || style.visibility !== "visible") return [];
    const outer = element.getBoundingClientRect();
    const scale = place.scale * (element.offsetWidth ? outer.width / element.offsetWidth : 1);
    const left = place.x + outer.left * place.scale;
    const top = place.y + outer.top * place.scale;
    const x = left + (element.clientLeft + parseFloat(style.paddingLeft)) * scale;
    const y = top + (element.clientTop + parseFloat(style.paddingTop)) * scale;
    const view = element.contentWindow;
    const window_ = [x, y, x + view.innerWidth * scale, y + view.innerHeight * scale];
    return [this.visitOf(inner, parent, { x, y, scale }, this.intersection(window_, clip))];
  },

  rectangleOf(element, { x, y, scale }) {
    const { left, top, right, bottom } = element.getBoundingClientRect();
    return [x + left * scale, y + top * scale, x + right * scale, y + bottom * scale];
  },

  intersection(a, b) {
    return [
      Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3]),
    ];
  },

  clipped(rectangle, clip, style) {
    const clips = (overflow) => overflow !== "visible";
    const isContained = /paint|strict|content/.test(style.contain);
    const inline = style.display === "inline"; // overflow does not apply to it
    const [x0, y0, x1, y1] = this.intersection(rectangle, clip);
    const inX = !inline && (clips(style.overflowX) || isContained);
    const inY = !inline && (clips(style.overflowY) || isContained);
    return [inX ? x0 : clip[0], inY ? y0 : clip[1], inX ? x1 : clip[2], inY ? y1 : clip[3]];
  },

  /* Whether fixed descendants are placed, and clipped, by this element instead of the window. */
  holdsFixed(style) {
    return (
      style.transform !== "none" || style.perspective !== "none" || style.filter !== "none" ||
      (style.translate || "none") !== "none" || (style.rotate || "none") !== "none" ||
      (style.scale || "none") !== "none" || (style.backdropFilter || "none") !== "none" ||
      /paint|layout|strict|content/.test(style.contain) || /transform/.test(style.willChange)
    );
  },

  isHidden(element, style) {
    if (parseFloat(style.opacity) < 0.02) return true;
    if (/^(inset\((50|100)%|circle\(0)/.test(style.clipPath)) return true;
    // Within closed details and `content-visibility: hidden`.
    if (element.checkVisibility && !element.checkVisibility()) return true;
    return style.position === "fixed" && this.isBackdrop(element);
  },

  isBackdrop(element) {
    const { left, top, right, bottom } = element.getBoundingClientRect();
    const view = element.ownerDocument.defaultView;
    const covers = left <= 1 && top <= 1 && right >= view.innerWidth - 1 && bottom >= view.innerHeight - 1;
    const shadow = element.shadowRoot;
    const inner = element.querySelectorAll("*").length + (shadow ? shadow.querySelectorAll("*").length : 0);
    return covers && inner <= this.BACKDROP_ELEMENTS && !element.querySelector("iframe, canvas, video");
  },

  kindOf(element, tag) {
    const role = this.ROLES[(element.getAttribute("role") || "").trim().toLowerCase()];
    if (role) return role;
    if (tag === "input") return this.INPUTS[element.type] || "input";
    return Object.hasOwn(this.KINDS, tag) ? this.KINDS[tag] : null;
  },

  /* Scroll to maxHeight or the end in steps, so that lazy content is loaded, and back to the top. The
     wait after each step lets observers run; a page that grows without end stops at maxHeight. */
  async scroll({ maxHeight, seconds, pause }) {
    const end = performance.now() + 1000 * seconds;
    const height = () => (document.scrollingElement || document.documentElement).scrollHeight;
    let y = 0;
    while (performance.now() < end) {
      y = Math.min(y + innerHeight, maxHeight);
      scrollTo({ left: 0, top: y, behavior: "instant" });
      await this.wait(pause);
      if (y >= maxHeight || y + innerHeight >= height()) break;
    }
    scrollTo({ left: 0, top: 0, behavior: "instant" });
    await this.wait(pause);
  },

  wait(milliseconds) {
    return new Promise((done) => setTimeout(done, milliseconds));
  },

  /* End animations, and lay out what `content-visibility: auto` leaves out. */
  freeze({ maxElements }) {
    for (const animation of document.getAnimations()) {
      try {
        animation.finish();
      } catch (error) {
        animation.cancel(); // an endless one cannot be finished
      }
    }
    const walker = document.createTreeWalker(document, NodeFilter.SHOW_ELEMENT);
    for (let n = 0; n < maxElements && walker.nextNode(); n++) {
      const element = walker.currentNode;
      if (getComputedStyle(element).contentVisibility === "auto") {
        element.style.setProperty("content-visibility", "visible", "important");
      }
    }
  },

  /* Wait until the layout has not changed for `frames` frames; return false if it still changes after
     `seconds`. */
  async settle({ frames, seconds, maxElements }) {
    const end = performance.now() + 1000 * seconds;
    let last = null;
    let same = 0;
    while (performance.now() < end) {
      const now = this.signature(maxElements);
      same = now === last ? same + 1 : 0;
      if (same >= frames) return true;
      last = now;
      await this.frameOrTimeout();
    }
    return false;
  },

  frameOrTimeout() {
    return new Promise((done) => {
      requestAnimationFrame(done);
      setTimeout(done, 50); // a page that is not drawn has no frames
    });
  },

  /* A number that differs if an element was added, moved or resized. */
  signature(maxElements) {
    const all = document.getElementsByTagName("*");
    const step = Math.ceil(Math.max(1, all.length / maxElements));
    let sum = all.length;
    for (let n = 0; n < all.length; n += step) {
      const { left, top, width, height } = all[n].getBoundingClientRect();
      sum = (sum * 31 + left + 3 * top + 7 * width + 13 * height) % 1e9;
    }
    return sum;
  },
})

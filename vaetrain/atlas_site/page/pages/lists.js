// Pages as elements: thumbnails, buttons in a list, and the facts of one page.

/** Make an element with properties and children; text is set as text, never as markup. */
export function element(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria-") || key === "role") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

/** Return an image of a page's thumbnail. */
export async function thumbnail(atlas, row) {
  const url = URL.createObjectURL(await atlas.picture(row));
  const done = () => URL.revokeObjectURL(url);
  return element("img", { alt: "", src: url, onload: done, onerror: done });
}

/**
 * Show a list of pages as buttons; `pages` has { row, distance? }. If isCurrent() is false when the
 * thumbnails are there, something else was requested meanwhile, and nothing is changed.
 */
export async function listPages(list, atlas, pages, onChoose, isCurrent = () => true) {
  const items = await Promise.all(pages.map(async ({ row, distance }) => {
    const page = await atlas.page(row);
    const lines = [page.id, page.label];
    if (distance !== undefined) lines.push(`distance ${distance.toFixed(3)}`);
    const button = element("button", { type: "button", onclick: () => onChoose(row) },
      await thumbnail(atlas, row), ...lines.map((line) => named(line)));
    button.title = page.id;
    return element("li", {}, button);
  }));
  if (isCurrent()) list.replaceChildren(...items);
}

/** Return what a search reports; `count` pages are shown of `all`. */
export function foundText(count, all) {
  if (all === 0) return "No page has all of these words in its label, template or id.";
  if (count < all) return `${count} of ${all.toLocaleString("en")} pages found; more words find fewer.`;
  return all === 1 ? "1 page found." : `${all} pages found.`;
}

/** Search as the user types; Enter chooses the first page that is listed. */
export function connectSearch(atlas, input, list, message, most, onChoose, guarded) {
  const find = async () => {
    const text = input.value.trim();
    message.textContent = text === "" ? "" : "Searching …";
    const { rows, all } = text === "" ? { rows: [], all: 0 } : await atlas.search(text, most);
    if (text !== input.value.trim()) return;
    await listPages(list, atlas, rows.map((row) => ({ row })), onChoose);
    if (text !== "" && text === input.value.trim()) message.textContent = foundText(rows.length, all);
  };
  input.oninput = () => guarded(find);
  input.onkeydown = (event) => {
    if (event.key === "Enter") list.querySelector("button")?.click();
  };
}

/** Show one chosen page, unless isCurrent() is false, see `listPages`. */
export async function showCard(card, title, atlas, page, isCurrent = () => true) {
  const facts = [
    ["label", page.label],
    ["template", page.template],
    ["height", `${page.height} rows of pixels`],
    ["reconstruction error (mean difference, 0 to 1)", page.error.toPrecision(3)],
  ];
  if (page.cluster >= 0) facts.push(["cluster", String(page.cluster)]);
  const image = await thumbnail(atlas, page.row);
  if (!isCurrent()) return;
  card.replaceChildren(
    element("strong", { textContent: title }),
    image,
    named(page.id),
    ...facts.map(([name, value]) => named(`${name}: ${value}`)),
  );
  card.dataset.row = page.row;
}

/** Return the neighbours of a page as { row, distance }, nearest first. */
export function neighboursOf(page) {
  return page.neighbours.map((row, at) => ({ row, distance: page.distances[at] }));
}

export function named(text) {
  return element("span", { className: "name", textContent: text, dir: "auto" });
}

/** Return the rows that the address names, as in `#page=12&to=40`; null: none, or no such page. */
export function namedPages(atlas) {
  const names = new URLSearchParams(location.hash.slice(1));
  return ["page", "to"].map((name) => {
    const text = names.get(name) ?? "";
    return /^\d{1,9}$/.test(text) && Number(text) < atlas.pages ? Number(text) : null;
  });
}

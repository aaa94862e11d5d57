"""Sections of synthetic pages: headers, footers, heroes, cards, forms, tables, articles."""

from __future__ import annotations

from collections.abc import Callable

from shards.synthetic.blocks import Block, flow, leaf, middle, picture, row, stack
from shards.synthetic.widgets import Dice, Kit


def header(kit: Kit) -> Block:
    """Return the bar at the top, in the style of the family."""
    style = kit.style
    logo = stack(leaf("image", 28, 110), pad=(4, 0), kind="link", shrink=True)
    if kit.mobile:
        bar = flow(logo, kit.icon(28), pad=(14, kit.edge), align="between", kind="nav")
        return stack(bar, kind="header")
    menu = kit.inline_links(4 + style.number % 4)
    if style.header == "centered":
        bar = stack(logo, menu, gap=12, pad=(20, kit.edge), center=True, kind="nav")
    else:
        pad = (32 if style.header == "tall" else 12, kit.edge)
        bar = flow(logo, menu, kit.icons(2), pad=pad, align="between", kind="nav")
    if style.header == "double":
        top = flow(kit.icons(3), kit.inline_links(2), pad=(2, kit.edge), align="between")
        return stack(top, bar, kind="header")
    return stack(bar, kind="header")


def footer(kit: Kit) -> Block:
    """Return the footer of every page of the family."""
    small = stack(kit.text(30, 60), pad=(16, kit.edge), center=True)
    if kit.style.footer == "line":
        return stack(small, kind="footer")
    if kit.style.footer == "centered":
        inner = stack(kit.icons(4), kit.inline_links(4), small, gap=16, pad=(32, 0), center=True)
        return stack(inner, kind="footer")
    columns = [stack(kit.heading(5), kit.links(4 + n % 3), gap=12) for n in range(4)]
    return stack(section(kit, kit.tiles(columns, 4)), small, kind="footer")


def section(kit: Kit, *blocks: Block, kind: str = "section", narrow: bool = False) -> Block:
    """Return blocks in the family's container, with its space above and below."""
    max_width = 640 if narrow else kit.style.container
    inner = kit.wrap(stack(*blocks, gap=kit.edge))
    container = stack(inner, pad=(0, kit.edge), max_width=max_width)
    return stack(container, pad=(kit.style.space, 0), center=True, kind=kind)


def titled(kit: Kit, *blocks: Block) -> Block:
    """Return a section with a heading and one or two lines below it."""
    title = stack(kit.heading(2), kit.text(40, 110), gap=10, center=True)
    return section(kit, title, *blocks)


def hero(kit: Kit) -> Block:
    """Return the first section of a landing page."""
    words = stack(
        kit.heading(1),
        kit.text(60, 160),
        flow(kit.button(), kit.button(), gap=12, shrink=True),
        gap=20,
        center=kit.style.hero == "centered",
    )
    if kit.style.hero == "centered":
        return stack(section(kit, words), pad=(kit.style.space, 0), kind="section")
    beside = form(kit, 3) if kit.style.hero == "form" else picture(0.6)
    return section(kit, kit.side_by_side(words, beside, shares=(3, 2)))


def card(kit: Kit, *extra: Block) -> Block:
    """Return a card in the style of the family."""
    words = [kit.heading(4), kit.text(40, 120), *extra]
    body = stack(*words, gap=10, pad=(16, 16), kind="cell")
    if kit.style.card == "image":
        return stack(picture(0.56), body, kind="article")
    if kit.style.card == "icon":
        return stack(kit.icon(48), body, gap=8, pad=(16, 16), kind="article")
    if kit.style.card == "framed":
        return stack(stack(body, pad=(8, 8)), pad=(1, 1), kind="article")
    return body


def cards(kit: Kit, low: int, high: int, make: Callable[[], Block] | None = None) -> Block:
    """Return a grid of cards."""
    return kit.tiles(kit.many(low, high, make or (lambda: card(kit))))


def form(kit: Kit, fields: int) -> Block:
    """Return fields below each other, and a button."""
    inputs = [kit.field() for _ in range(fields)]
    return stack(*inputs, kit.choice(), kit.button(), gap=16, pad=(16, 16), kind="form")


def form_page(kit: Kit, fields: int) -> Block:
    """Return a page that has only a form, such as log-in and registration."""
    body = stack(kit.heading(3), form(kit, fields), kit.inline_links(2), gap=16, center=True)
    box = stack(body, pad=(24, 24), max_width=420 + 40 * (kit.style.number % 3), kind="main")
    if kit.style.form_page == "split" and not kit.mobile:
        return row(leaf("image", kit.style.screen), middle(box, kit.style.screen))
    if kit.style.form_page == "page":
        return section(kit, box, narrow=True)
    return middle(box, kit.style.screen)


def table(kit: Kit, rows: int, columns: int) -> Block:
    """Return a table with a row of headings."""
    columns = min(columns, 3) if kit.mobile else columns
    lines = [
        row(*(stack(kit.text(4, 12), pad=(10, 8), kind="cell") for _ in range(columns)), kind="row")
        for _ in range(rows + 1)
    ]
    return stack(*lines, kind="table")


def article(kit: Kit, paragraphs: int) -> Block:
    """Return running text under a heading, with some pictures."""
    parts: list[Block] = [kit.heading(1), flow(kit.icon(32), kit.text(12, 24), gap=10)]
    for _ in range(paragraphs):
        parts.append(kit.text(200, 620))
        if kit.dice.chance(0.3):
            parts.append(stack(picture(0.5), kit.text(20, 50), gap=6, kind="figure"))
        if kit.dice.chance(0.3):
            parts.append(kit.heading(3))
    return stack(*parts, gap=20, kind="article")


def statistics(kit: Kit, count: int) -> Block:
    """Return small panels with a number each."""
    panels = [
        stack(flow(kit.icon(32), kit.heading(4), gap=12), kit.text(8, 16), gap=6, pad=(16, 16))
        for _ in range(count)
    ]
    return kit.tiles(panels, 4)


def panel(kit: Kit, body: Block) -> Block:
    """Return a framed panel of an application, with a title bar."""
    bar = flow(kit.heading(5), kit.icon(16), pad=(10, 16), align="between", kind="header")
    return stack(bar, stack(body, pad=(16, 16)), kind="section")


def site(kit: Kit, *sections: Block) -> Block:
    """Return a page of a website: header, sections, footer."""
    own = _family_kit(kit)
    return stack(header(own), stack(*sections, kind="main"), footer(own))


def tool(kit: Kit, *sections: Block) -> Block:
    """Return a page of an application: a bar, a menu at the side, and its content."""
    own = _family_kit(kit)
    content = stack(*sections, gap=kit.edge, pad=(kit.edge, kit.edge), kind="main")
    if kit.mobile or kit.style.sidebar == "none":
        return stack(header(own), content, footer(own))
    menu = stack(own.links(8 + kit.style.number % 6, with_icons=True), pad=(20, 16), kind="aside")
    sides = (content, menu) if kit.style.sidebar == "right" else (menu, content)
    shares = (5, 1) if kit.style.sidebar == "right" else (1, 5)
    return stack(header(own), row(*sides, shares=shares))


def _family_kit(kit: Kit) -> Kit:
    """Return a kit with the random numbers of the family, so that its pages share their chrome."""
    return Kit(kit.style, Dice("chrome", kit.style.number), kit.mobile)

"""Page generator: labelled archetypes in the styles of many design families.

A page is a pure function of (seed, number). Its *template* is a design family: header, container,
cards and nesting style. The pages of a family share header and footer, as those of a website do.
"""

from __future__ import annotations

from collections.abc import Callable

from shards.source_formats import register_generator
from shards.synthetic.blocks import Block, cut, leaf, picture, stack, tree
from shards.synthetic.sections import (
    article,
    card,
    cards,
    form,
    form_page,
    hero,
    panel,
    section,
    site,
    statistics,
    table,
    titled,
    tool,
)
from shards.synthetic.widgets import DESKTOP, MOBILE, Dice, Kit, Style

FAMILIES = 64  # design families of one seed
LOWEST, TALLEST = 500, 4000  # px of canvas


def home(kit: Kit) -> Block:
    return site(kit, hero(kit), titled(kit, cards(kit, 3, 8)), titled(kit, statistics(kit, 4)))


def about(kit: Kit) -> Block:
    story = kit.side_by_side(stack(kit.heading(), kit.text(300, 700), gap=12), picture(0.7))
    people = kit.many(3, 8, lambda: stack(picture(1.0), kit.heading(5), kit.text(8, 20), gap=6))
    return site(kit, section(kit, story), titled(kit, kit.tiles(people, 4)))


def contact(kit: Kit) -> Block:
    details = stack(kit.heading(3), kit.links(4, with_icons=True), gap=16)
    together = kit.side_by_side(form(kit, 4), details, shares=(2, 1))
    return site(kit, titled(kit, together), leaf("frame", 320))


def pricing(kit: Kit) -> Block:
    def plan() -> Block:
        return card(kit, kit.heading(2), kit.links(kit.dice.whole(4, 7)), kit.button())

    return site(kit, titled(kit, cards(kit, 3, 4, plan)), titled(kit, questions(kit, 4)))


def login(kit: Kit) -> Block:
    return form_page(kit, 2)


def register(kit: Kit) -> Block:
    return form_page(kit, kit.dice.whole(4, 7))


def read(kit: Kit) -> Block:
    aside = stack(kit.heading(4), kit.links(5), kit.heading(4), kit.links(4), gap=16, kind="aside")
    body = article(kit, kit.dice.whole(4, 9))
    return site(kit, section(kit, kit.side_by_side(body, aside, shares=(3, 1))))


def product_list(kit: Kit) -> Block:
    filters = stack(*(kit.choice() for _ in range(8)), gap=8, kind="aside")
    goods = cards(kit, 6, 12, lambda: stack(picture(1.0), card(kit, kit.button()), gap=8))
    return site(kit, section(kit, kit.side_by_side(filters, goods, shares=(1, 4))))


def product(kit: Kit) -> Block:
    words = stack(kit.heading(1), kit.text(80, 240), kit.field(), kit.button(), gap=16)
    shown = stack(picture(0.9), kit.tiles([picture(1.0) for _ in range(4)], 5), gap=12)
    return site(kit, section(kit, kit.side_by_side(shown, words)), titled(kit, cards(kit, 3, 4)))


def cart(kit: Kit) -> Block:
    goods = table(kit, kit.dice.whole(2, 6), 5)
    total = stack(kit.heading(4), kit.links(3), kit.button(), gap=12, pad=(16, 16), kind="aside")
    return site(kit, section(kit, kit.heading(1), kit.side_by_side(goods, total, shares=(3, 1))))


def dashboard(kit: Kit) -> Block:
    charts = [panel(kit, leaf("canvas", 240)) for _ in range(kit.dice.whole(2, 4))]
    rows = panel(kit, table(kit, kit.dice.whole(4, 8), 5))
    return tool(kit, statistics(kit, 4), kit.side_by_side(*charts[:2]), *charts[2:], rows)


def listing(kit: Kit) -> Block:
    return tool(kit, kit.heading(2), panel(kit, table(kit, kit.dice.whole(8, 24), 6)))


def entry_form(kit: Kit) -> Block:
    parts = kit.many(2, 4, lambda: panel(kit, form(kit, kit.dice.whole(3, 6))))
    return tool(kit, kit.heading(2), kit.tiles(parts, 2))


def profile(kit: Kit) -> Block:
    face = stack(leaf("image", 120, 120), kit.heading(3), kit.icons(4), gap=12, center=True)
    posts = stack(*kit.many(2, 6, lambda: card(kit)), gap=kit.edge)
    return tool(kit, kit.side_by_side(panel(kit, face), panel(kit, posts), shares=(1, 2)))


def gallery(kit: Kit) -> Block:
    ratio = kit.dice.one_of((0.66, 0.75, 1.0))
    return site(kit, titled(kit, kit.tiles(kit.many(6, 18, lambda: picture(ratio)))))


def questions(kit: Kit, count: int) -> Block:
    """Return a list of questions with their answers."""
    pairs = (stack(kit.heading(5), kit.text(80, 300), gap=8, kind="item") for _ in range(count))
    return stack(*pairs, gap=kit.edge, kind="list")


def faq(kit: Kit) -> Block:
    return site(kit, titled(kit, questions(kit, kit.dice.whole(6, 14))))


def search(kit: Kit) -> Block:
    results = kit.many(5, 10, lambda: stack(kit.link(), kit.text(80, 200), gap=6, kind="item"))
    return site(kit, section(kit, kit.field(), stack(*results, gap=20, kind="list"), narrow=True))


def settings(kit: Kit) -> Block:
    menu = kit.links(6)
    choices = stack(*(kit.choice() for _ in range(6)), gap=12)
    body = stack(panel(kit, form(kit, 3)), panel(kit, choices), gap=kit.edge)
    return tool(kit, kit.heading(2), kit.side_by_side(menu, body, shares=(1, 3)))


ARCHETYPES: dict[str, Callable[[Kit], Block]] = {
    "home": home,
    "about": about,
    "contact": contact,
    "pricing": pricing,
    "login": login,
    "register": register,
    "article": read,
    "product-list": product_list,
    "product": product,
    "cart": cart,
    "dashboard": dashboard,
    "table": listing,
    "form": entry_form,
    "profile": profile,
    "gallery": gallery,
    "faq": faq,
    "search": search,
    "settings": settings,
}


@register_generator("synthetic", default_count=1000)
def generate(seed: int, number: int) -> dict:
    """Return page `number` of a seed, as a record of the compact schema.

    Returns: a record with `id`, `label` (of `ARCHETYPES`), `template` (`synthetic-<family>`),
        `viewport` (1280 or 390 px) and the tree; 500 to 4,000 px high.
    """
    dice = Dice("page", seed, number)
    label = dice.one_of(tuple(ARCHETYPES))
    family = seed * FAMILIES + dice.whole(0, FAMILIES - 1)
    mobile = dice.chance(0.4)
    width = MOBILE if mobile else DESKTOP
    kit = Kit(Style.of(family), dice, mobile)
    box = cut(ARCHETYPES[label](kit)(width), TALLEST)
    box.width = width
    box.height = max(box.height, LOWEST, min(kit.style.screen, TALLEST))
    return {
        "id": f"synthetic-{seed}-{number}",
        "label": label,
        "template": f"synthetic-{family}",
        "source": "synthetic",
        "license": "CC0-1.0",
        "viewport": width,
        "w": width,
        "h": box.height,
        "r": tree(box),
    }

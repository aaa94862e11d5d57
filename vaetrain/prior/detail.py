"""Detail of samples: the pixels of a page, one after the other, given the decoded page.

A vector of some hundred nats cannot hold the edges of a hundred boxes, so a decoded page is a blur
of what may be there. This model draws one page of those: a pixel's distribution depends on the
decoded page, and on the pixels above it and to its left (van den Oord et al. 2016, "Conditional
image generation with PixelCNN decoders"). Nearly every pixel of a wireframe equals a neighbour, or
is a level more or less, so the distribution is a mixture of such copies and of a categorical
distribution (as of words in See, Liu and Manning 2017, "Get to the point", equation 9).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shards.randomness import random_bits, uniform
from vaetrain.prior.canvas import RUNS, SIDE, STEPS, VALUES, WINDOW, Canvas

COARSE = 4  # side of the squares of pixels that the network of the decoded page works on
CHANNELS = 32
DILATIONS = (1, 2, 4, 8)
NEAR = 3  # decoded pixels around a pixel, on each side
CONTEXT = CHANNELS + (2 * NEAR + 1) ** 2 + COARSE**2
COPIES = 17  # columns of `copies`
COMPARISONS = 14  # columns of `comparisons`
CONTRAST = 4.0  # decoded pages are multiplied by it
# Of the choice between copies and a new value. A wrong pixel is continued as if it were right, so
# pages have too many edges at 1; below 1 the likeliest choice, to go on as before, is more likely.
TEMPERATURE = 0.55


class Detail(nn.Module):
    """Autoregressive model of the pixels of pages, given decoded pages.

    Attributes:
        width: of its hidden layers.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.enter = nn.Conv2d(COARSE**2 + 3, CHANNELS, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=gap, dilation=gap) for gap in DILATIONS
        )
        self.around = nn.Linear(WINDOW, width)
        self.context = nn.Linear(CONTEXT, width)
        self.compare = nn.Linear(RUNS + COMPARISONS, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.choose = nn.Linear(width, COPIES + 1)
        self.difference = nn.Linear(width, 2 * VALUES - 1)  # of a new value from the decoded one
        with torch.no_grad():
            self.choose.bias[:2] = 3.0  # at first, pixels equal the upper or the left one

    def contexts(self, decoded: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `at` takes of decoded pages.

        Args:
            decoded: (B, 1, H, W) in [0, 1], zero below the pages; H and W are multiples of
                `COARSE`.
            heights: Long (B,), rows of the pages.

        Returns: (B, H / COARSE, W / COARSE, CHANNELS), and the pages with a margin.
        """
        pages = decoded * CONTRAST
        rows, columns = pages.shape[2] // COARSE, pages.shape[3] // COARSE
        row = torch.arange(rows, device=pages.device)[:, None] * COARSE
        column = torch.arange(columns, device=pages.device)[None] * COARSE
        # As in the VAE, all is zero below a page, so that its padding has no influence.
        inside = (row < heights[:, None, None, None]).float().expand(-1, 1, rows, columns)
        position = torch.stack([plane.expand(rows, columns) for plane in (row, column)])
        planes = [F.pixel_unshuffle(pages, COARSE), inside, inside * position / decoded.shape[3]]
        x = F.gelu(self.enter(torch.cat(planes, 1))) * inside
        for layer in self.layers:
            x = x + F.gelu(layer(x)) * inside
        return x.permute(0, 2, 3, 1), F.pad(pages[:, 0], (NEAR,) * 4)

    def at(
        self, contexts: tuple[Tensor, Tensor], page: Tensor, row: Tensor, column: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the contexts of pixels (N, CONTEXT), and their decoded values, Long (N,)."""
        coarse, pages = contexts
        side = torch.arange(2 * NEAR + 1, device=page.device)
        rows = (row[:, None] + side)[:, :, None]
        near = pages[page[:, None, None], rows, (column[:, None] + side)[:, None]]
        phase = F.one_hot(row % COARSE * COARSE + column % COARSE, COARSE**2)
        # Not by three indices: on several threads, the sums of that gradient have no fixed order.
        square = (page * coarse.shape[1] + row // COARSE) * coarse.shape[2] + column // COARSE
        of_square = coarse.flatten(0, 2).index_select(0, square)
        context = [of_square, near.flatten(1), phase.float()]
        decoded = near[:, NEAR, NEAR] * (40 * STEPS / CONTRAST)
        return torch.cat(context, 1), decoded.round().long().clamp(0, VALUES - 1)

    def forward(
        self, canvas: Canvas, places: Tensor, context: Tensor, decoded: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the distribution of pixels, given those before them.

        Args:
            places: Long (N,), of the canvas.
            context, decoded: of `at`.

        Returns: logits of the choice among the copies and a new value, (N, COPIES + 1); the values
            of the copies, Long (N, COPIES); and logits of a new value, (N, VALUES).
        """
        window, neighbours, runs = canvas.around(places)
        x = self.around(window) + self.context(context)
        x = x + self.compare(torch.cat([runs, comparisons(neighbours, decoded)], 1))
        x = F.gelu(x)
        for layer in self.hidden:
            x = x + F.gelu(layer(x))
        values = copies(neighbours, decoded)
        is_value = F.pad((values >= 0) & (values < VALUES), (0, 1), value=True)
        choice = self.choose(x).masked_fill(~is_value, -torch.inf)
        every = torch.arange(VALUES, device=places.device)
        return choice, values, self.difference(x).gather(1, every - decoded[:, None] + VALUES - 1)

    def log_probabilities(
        self, canvas: Canvas, places: Tensor, context: Tensor, decoded: Tensor, values: Tensor
    ) -> Tensor:
        """Return the log probabilities of the values Long (N,) of pixels, (N,)."""
        choice, copied, new = self(canvas, places, context, decoded)
        choice, new = choice.log_softmax(1), new.log_softmax(1).gather(1, values[:, None])
        is_it = copied == values[:, None]
        parts = [choice[:, :COPIES].masked_fill(~is_it, -torch.inf), choice[:, COPIES:] + new]
        return torch.cat(parts, 1).logsumexp(1)

    @torch.no_grad()
    def draw(
        self, decoded: Tensor, heights: Tensor, keys: Tensor, temperature: float = TEMPERATURE
    ) -> Tensor:
        """Draw pages, float32 (B, 1, H, W) in [0, 1], zero below the pages.

        Args:
            decoded: as of `contexts`; clipped to [0, 1] here.
            heights: Long (B,), rows of the pages.
            keys: Long (B,), of `shards.randomness.sample_keys`. A page depends on its key and its
                decoded page alone, up to rounding.
            temperature: of the choice, see `TEMPERATURE`.

        A row can be drawn as soon as the row above is `SIDE` pixels ahead, so the pixels of one
        step lie on a slanted line through all pages.
        """
        pages, _, rows, width = decoded.shape
        contexts = self.contexts(decoded.clamp(0, 1), heights)
        canvas = Canvas(pages, rows, width, decoded.device)
        drawn = torch.zeros(pages, rows, width, dtype=torch.long, device=decoded.device)
        streams = [random_bits(keys, torch.full_like(keys, number)) for number in (-5, -6)]
        height = heights.cpu()  # the loop is on the host, so that it need not wait for the device
        for line in range(width + (SIDE + 1) * (int(height.max()) - 1)):
            pixels = _line_pixels(line, height, width)
            page, row, column = pixels.to(decoded.device)
            places = canvas.places(page, row, column)
            context, coarse = self.at(contexts, page, row, column)
            choice, values, new = self(canvas, places, context, coarse)
            position = row << 32 | column
            numbers = [uniform(stream[page], position) for stream in streams]
            chosen = _pick(choice / temperature, numbers[0])
            options = torch.cat([values, _pick(new, numbers[1])[:, None]], 1)
            value = options.gather(1, chosen[:, None])[:, 0]
            canvas.put(places, value, row, column)
            drawn[page, row, column] = value
        return drawn[:, None] / (40.0 * STEPS)


def copies(neighbours: Tensor, decoded: Tensor) -> Tensor:
    """Return values that a pixel may have because of its neighbours and of the decoded page.

    They are the neighbours; the upper and the left one a level more or less, or rounded up or down
    to a level; and the decoded value rounded to a level, that level one more or less, and the
    levels above and below it.

    Args:
        neighbours: Long (N, 4), of `Canvas.around`.
        decoded: Long (N,).

    Returns: Long (N, COPIES), some outside of [0, VALUES).
    """
    near = neighbours[:, :2]
    level = _floor(decoded + STEPS // 2)
    of_decoded = [level, level + STEPS, level - STEPS, _floor(decoded), _ceiling(decoded)]
    of_near = [near + STEPS, near - STEPS, _ceiling(near), _floor(near)]
    return torch.cat([neighbours, *of_near, torch.stack(of_decoded, 1)], 1)


def comparisons(neighbours: Tensor, decoded: Tensor) -> Tensor:
    """Return how the neighbours differ from one another and from the decoded page.

    Args: as of `copies`. Returns: float (N, COMPARISONS).
    """
    above, left, corner, right = neighbours.unbind(1)
    gaps = decoded[:, None] - neighbours[:, :2]
    columns = [
        neighbours % STEPS / STEPS,
        torch.stack([above == left, above == corner, left == corner, above == right], 1),
        gaps / (2 * STEPS),
        gaps.abs() > STEPS / 2,
        (gaps[:, :1].abs() > 1.5 * STEPS),
        (decoded % STEPS / STEPS)[:, None],
    ]
    return torch.cat([column.float() for column in columns], 1)


def _floor(values: Tensor) -> Tensor:
    return values.div(STEPS, rounding_mode="floor") * STEPS


def _ceiling(values: Tensor) -> Tensor:
    return _floor(values + STEPS - 1)


def _pick(logits: Tensor, numbers: Tensor) -> Tensor:
    """Return the position, Long (N,), that each number in [0, 1) falls on in its distribution."""
    total = logits.softmax(1).cumsum(1)
    # The last sum may be below 1 by rounding, and below the number.
    return (total <= numbers[:, None] * total[:, -1:]).sum(1).clamp(max=logits.shape[1] - 1)


def _line_pixels(line: int, heights: Tensor, width: int) -> Tensor:
    """Return the pixels of a slanted line within the pages: Long (3, N), page, row and column."""
    step = SIDE + 1
    first = max(0, -(-(line - width + 1) // step))
    rows = torch.arange(first, line // step + 1)
    page, place = (rows < heights[:, None]).nonzero(as_tuple=True)
    row = rows[place]
    return torch.stack([page, row, line - step * row])

"""Augmentation of decoded batches."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from smoothcert.errors import require_count

BatchAugmentation = Callable[[Tensor, torch.Generator], Tensor]


class CropAndFlip:
    """Pad with zeros, crop at a random place, and mirror half of the images.

    Each image is shifted and mirrored independently.

    Args:
        padding: pixels added on each side before the crop; 0 leaves images in place.
        flip: whether to mirror left and right with probability one half.

    Raises:
        InvalidArgumentError: if the padding is not a whole number >= 0.

    Example:
        >>> augment = CropAndFlip(padding=4)
        >>> augment(torch.ones(2, 3, 32, 32), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, padding: int, flip: bool = True) -> None:
        require_count("crop_padding", padding, minimum=0)
        self.padding = padding
        self.flip = flip

    def __call__(self, images: Tensor, source: torch.Generator) -> Tensor:
        """Augment images of shape (B, C, H, W), any dtype; they come back channels-last.

        The generator is on the CPU, so that the result is the same on every device.
        """
        count, _, height, width = images.shape
        offsets = torch.randint(2 * self.padding + 1, (2, count), generator=source)
        rows = offsets[0][:, None] + torch.arange(height)
        columns = offsets[1][:, None] + torch.arange(width)
        if self.flip:
            mirrored = torch.rand(count, generator=source) < 0.5
            columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        rows, columns, which = (
            each.to(images.device) for each in (rows, columns, torch.arange(count))
        )
        # Channels last while indexing: one gather then moves whole pixels.
        padded = pad(images, [self.padding] * 4).permute(0, 2, 3, 1)
        moved = padded[which[:, None, None], rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2)

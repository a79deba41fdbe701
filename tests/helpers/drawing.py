"""Noise for comparisons of memory formats."""

from smoothcert import noise


def draw_alike(images, sigma, draws, source):
    """Draw noise of the same values in both memory formats, in that of the images."""
    values = noise.draw_noise(images.contiguous(), sigma, draws, source)
    if images.is_contiguous():
        return values
    return values.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)

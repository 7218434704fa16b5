"""The same plans done by other libraries, as their users would write it."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from gar_env.augment import Plan


def torchvision_per_image(plan: Plan, images: Tensor) -> Tensor:
    """torchvision's tensor kernels (transforms.v2), image by image."""
    done = []
    for i, image in enumerate(images):
        for name, strength, negative, corner in plan._steps(i):
            image = torchvision_op(image, name, plan.space.value(name, strength, negative=negative), corner)
        done.append(image)
    return torch.stack(done)


def torchvision_op(image: Tensor, name: str, value: float, corner: tuple[int, int]) -> Tensor:
    """One operation on uint8 ``[3, h, w]``."""
    nearest = InterpolationMode.NEAREST
    if name in ("shear_x", "shear_y"):
        degrees = float(torch.atan(torch.tensor(value)) * 180 / torch.pi)
        shear = [degrees, 0.0] if name == "shear_x" else [0.0, degrees]
        return F.affine(image, 0.0, [0, 0], 1.0, shear, interpolation=nearest, center=[0, 0])
    if name in ("translate_x", "translate_y"):
        by = [-value, 0.0] if name == "translate_x" else [0.0, -value]
        return F.affine(image, 0.0, by, 1.0, [0.0, 0.0], interpolation=nearest)
    if name == "cutout":
        x, y, size = *corner, int(value)
        height, width = image.shape[1:]
        size_y, size_x = min(size + 1, height - y), min(size + 1, width - x)
        return image if size < 1 else F.erase(image, y, x, size_y, size_x, torch.zeros((), dtype=torch.uint8))
    calls = {
        "identity": lambda: image,
        "auto_contrast": lambda: F.autocontrast(image),
        "equalize": lambda: F.equalize(image),
        "rotate": lambda: F.rotate(image, value, interpolation=nearest),
        "solarize": lambda: F.solarize(image, value) if value < 256 else image,
        "color": lambda: F.adjust_saturation(image, value),
        "posterize": lambda: F.posterize(image, int(value)),
        "contrast": lambda: F.adjust_contrast(image, value),
        "brightness": lambda: F.adjust_brightness(image, value),
        "sharpness": lambda: F.adjust_sharpness(image, value),
        "blur": lambda: F.gaussian_blur(image, [5, 5]),
        "invert": lambda: F.invert(image),
        "flip_lr": lambda: F.horizontal_flip(image),
        "flip_ud": lambda: F.vertical_flip(image),
    }
    return calls[name]()


class Kornia:
    """kornia's batch functions, one call for all images with the same operation at a place."""

    def __init__(self) -> None:
        import kornia  # pyright: ignore[reportMissingImports]

        self.enhance, self.filters = kornia.enhance, kornia.filters
        self.geometry = kornia.geometry.transform

    def __call__(self, plan: Plan, images: Tensor) -> Tensor:
        """uint8 to uint8; in between floats in [0, 1], converted once."""
        current = images.float() / 255
        applied = plan.keep
        for place in range(plan.places):
            for number, name in enumerate(plan.space.names):
                rows = ((plan.operations[:, place] == number) & applied[:, place]).nonzero().flatten()
                if not len(rows):
                    continue
                strengths, negative = plan.strengths[rows, place].tolist(), plan.negative[rows, place].tolist()
                pairs = zip(strengths, negative, strict=True)
                values = torch.tensor([float(plan.space.value(name, k, negative=minus)) for k, minus in pairs])
                current[rows] = self.op(current[rows], name, values.to(images.device), plan.corners[rows, place])
        return (current * 255).round().clamp(0, 255).to(torch.uint8)

    def op(self, images: Tensor, name: str, values: Tensor, corners: Tensor) -> Tensor:
        """One operation on float ``[m, 3, h, w]``."""
        enhance, geometry = self.enhance, self.geometry
        zeros = torch.zeros_like(values)
        if name == "cutout":
            x = torch.arange(images.shape[3], device=images.device) - corners[:, :1]
            y = torch.arange(images.shape[2], device=images.device) - corners[:, 1:]
            inside = [(away >= 0) & (away <= values[:, None]) & (values >= 1)[:, None] for away in (x, y)]
            return images * ~(inside[1][:, None, :, None] & inside[0][:, None, None, :])
        calls = {
            "identity": lambda: images,
            "auto_contrast": lambda: enhance.normalize_min_max(images),
            "equalize": lambda: enhance.equalize(images),
            "rotate": lambda: geometry.rotate(images, values, mode="nearest"),
            "solarize": lambda: enhance.solarize(images, thresholds=values / 256),
            "color": lambda: enhance.adjust_saturation_with_gray_subtraction(images, values),
            "posterize": lambda: enhance.posterize(images, values.int()),
            "contrast": lambda: enhance.adjust_contrast_with_mean_subtraction(images, values),
            "brightness": lambda: enhance.adjust_brightness_accumulative(images, values),
            "sharpness": lambda: enhance.sharpness(images, values),
            "shear_x": lambda: geometry.shear(images, torch.stack([values, zeros], 1), mode="nearest"),
            "shear_y": lambda: geometry.shear(images, torch.stack([zeros, values], 1), mode="nearest"),
            "translate_x": lambda: geometry.translate(images, torch.stack([-values, zeros], 1), mode="nearest"),
            "translate_y": lambda: geometry.translate(images, torch.stack([zeros, -values], 1), mode="nearest"),
            "blur": lambda: self.filters.box_blur(images, (5, 5)),
            "invert": lambda: enhance.invert(images),
            "flip_lr": lambda: geometry.hflip(images),
            "flip_ud": lambda: geometry.vflip(images),
        }
        return calls[name]()

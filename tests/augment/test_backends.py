"""Every backend equals Pillow in every bit."""

import itertools
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from gar_env.augment import (
    BACKENDS,
    OPERATIONS,
    SPACES,
    STRENGTHS,
    Choice,
    Plan,
    SearchSpace,
    apply,
    backends,
    plan as plan_module,
    register_op,
)
from gar_env.errors import ConfigurationError, DeviceError, DuplicateNameError, UnknownNameError

TENSOR_BACKENDS = ("torch", "masked")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(n, channels=3, height=32, width=32, seed=0):
    return torch.randint(256, (n, channels, height, width), dtype=torch.uint8, generator=generator(seed))


def gentle(n, channels=3, height=32, width=32):
    """Smooth images of few levels: histograms with gaps, channels of one value, edges."""
    small = torch.randint(256, (n, channels, 3, 2), generator=generator(1)).float()
    images = F.interpolate(small, size=(height, width), mode="bilinear").to(torch.uint8)
    images[0] = 0
    images[1] = 255
    images[2, 0] = 17
    images[3] = images[3] // 64 * 64
    return images


def plan_for(images, space="wl", seed=0, **options):
    n, _, height, width = images.shape
    return Plan.sample(SPACES[space], n, height=height, width=width, generator=generator(seed), **options)


def unequal(plan, images, backend):
    """The first image at which a backend differs from Pillow, in words, or None."""
    wrong = (apply(plan, images, backend=backend) != apply(plan, images, backend="pillow")).flatten(1).any(1)
    if not wrong.any():
        return None
    return f"{int(wrong.sum())} of {len(images)} differ, first: {plan.describe(int(wrong.nonzero()[0]))}"


@pytest.mark.parametrize("backend", TENSOR_BACKENDS)
@pytest.mark.parametrize(("space", "name"), [(space, name) for space in ("wl", "ra") for name in SPACES[space].names])
def test_every_strength_and_sign_of_every_operation_equals_pillow(space, name, backend):
    one = SPACES[space].subset([name])
    strengths = torch.arange(STRENGTHS).repeat(4)[:, None]
    negative = (torch.arange(4 * STRENGTHS) % 2 == 0)[:, None]
    n = len(strengths)
    corners = torch.randint(32, (n, 1, 2), generator=generator())
    plan = Plan(one, 32, 32, torch.zeros_like(strengths), strengths, torch.ones_like(negative), negative, corners)
    images = torch.cat([gentle(n // 2), noise(n - n // 2)])
    assert unequal(plan, images, backend) is None


SIZES = [
    (32, 32),
    (8, 8),
    (40, 56),
    (57, 33),
    (100, 100),
    (120, 90),
    (97, 97),
    (150, 230),
    (5, 5),
    (4, 4),
    (3, 3),
    (2, 2),
    (1, 1),
    (1, 9),
    (9, 1),
]


@pytest.mark.parametrize("backend", TENSOR_BACKENDS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_sequences_on_images_of_any_size_equal_pillow(size, channels, backend):
    for space in SPACES:
        for images in (noise(24, channels, *size), gentle(24, channels, *size)):
            plan = plan_for(images, space, num_operations=4, keep_probability=0.8)
            assert unequal(plan, images, backend) is None


@pytest.fixture(scope="module")
def cifar10(cifar10_path):
    return torch.from_numpy(np.load(cifar10_path)["x_train"]).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("backend", TENSOR_BACKENDS)
@pytest.mark.parametrize("space", ["wl", "ra", "ra-translate", "ta-wide"])
def test_sequences_on_real_images_equal_pillow(cifar10, space, backend):
    images = cifar10[torch.randperm(len(cifar10), generator=generator())[:500]]
    assert unequal(plan_for(images, space, num_operations=4, keep_probability=0.7), images, backend) is None


@pytest.mark.slow
@pytest.mark.parametrize("space", ["wl", "ra", "ra-translate", "ta-wide"])
def test_15000_sequences_on_real_images_equal_pillow_in_every_backend(cifar10, space):
    operations = 0
    for seed in range(15):
        images = cifar10[torch.randint(len(cifar10), (1000,), generator=generator(seed))]
        size = [(32, 32), (32, 32), (64, 64), (96, 96), (40, 56)][seed % 5]
        if size != (32, 32):
            images = F.interpolate(images.float(), size=size, mode="bicubic").clamp(0, 255).to(torch.uint8)
        plan = plan_for(images, space, seed, num_operations=1 + seed % 4, keep_probability=0.8)
        operations += int(plan.applied.sum())
        for backend in TENSOR_BACKENDS:
            assert unequal(plan, images, backend) is None
    print(f"{space}: 15000 sequences, {operations} operations")


@pytest.mark.parametrize(
    "choice",
    [
        Choice("solarize", start=256, span=-256),
        Choice("solarize", start=300, span=-400, whole=True),
        Choice("posterize", start=8, span=-8, whole=True),
        Choice("brightness", start=-200, span=400),
        Choice("color", start=0, span=500, signed=True),
        Choice("sharpness", start=0.1, span=3, signed=True),
        Choice("contrast", start=1, span=40),
        Choice("rotate", span=1000, signed=True),
        Choice("shear_x", span=40, signed=True),
        Choice("translate_y", span=90, whole=True, signed=True),
        Choice("cutout", span=60, whole=True),
    ],
    ids=lambda choice: choice.name,
)
def test_ranges_of_ones_own_equal_pillow_too(choice):
    images = torch.cat([noise(150, 3, 28, 28), gentle(150, 3, 28, 28)])
    plan = Plan.sample(
        SearchSpace("mine", (choice,)), 300, height=28, width=28, generator=generator(), num_operations=1
    )
    for backend in TENSOR_BACKENDS:
        assert unequal(plan, images, backend) is None


def test_an_empty_plan_gives_a_copy():
    images = noise(4)
    for backend in BACKENDS:
        done = apply(plan_for(images, keep_probability=0.0), images, backend=backend)
        assert torch.equal(done, images)
        assert done.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_the_images_stay_as_they_are(backend):
    images = noise(16)
    before = images.clone()
    apply(plan_for(images, num_operations=4), images, backend=backend)
    assert torch.equal(images, before)


@pytest.mark.parametrize("backend", TENSOR_BACKENDS)
def test_strided_images_are_taken_as_they_are(backend):
    images = noise(16).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # channels-last
    assert unequal(plan_for(images, num_operations=4), images, backend) is None


@pytest.fixture
def fake_gpu(monkeypatch):
    """Tensors without values on a GPU that is not there: what needs a value, or a tensor from elsewhere, raises."""
    rand = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *shape, generator=None, **options: rand(*shape, **options))
    try:
        with FakeTensorMode(allow_non_fake_inputs=False):
            yield torch.device("cuda")
    finally:
        plan_module._tables.cache_clear()  # they hold fake tensors now
        backends.compiled.cache_clear()


def test_choosing_a_plan_and_applying_it_by_masks_never_waits_for_the_device(fake_gpu):
    images = torch.empty(8, 3, 32, 32, dtype=torch.uint8, device=fake_gpu)
    numbers = torch.empty(8, 3, dtype=torch.int64, device=fake_gpu)
    plan = Plan.choose(SPACES["wl"], numbers, numbers, numbers > 0, height=32, width=32, generator=None)
    done = apply(plan, images, backend="masked")
    assert done.shape == images.shape
    assert done.device.type == "cuda"
    with pytest.raises(DataDependentOutputException):  # grouped asks for the groups' sizes
        apply(plan, images, backend="torch")


def test_an_operation_of_ones_own_works_in_every_backend():
    def roll(image, value):
        return Image.fromarray(np.roll(np.asarray(image), int(value), axis=1))

    @register_op("test_roll", unit="pixels", identity=0, pillow=roll)
    def rolled(images, values):
        columns = torch.arange(images.shape[3]) - values.long()[:, None]
        index = (columns % images.shape[3])[:, None, None].expand_as(images)
        return images.gather(3, index)

    try:
        space = SearchSpace("rolling", (Choice("test_roll", span=30, whole=True, signed=True), *SPACES["wl"].choices))
        images = noise(200)
        plan = Plan.sample(space, 200, height=32, width=32, generator=generator(), num_operations=4)
        for backend in TENSOR_BACKENDS:
            assert unequal(plan, images, backend) is None
        with pytest.raises(DuplicateNameError, match="An operation called 'test_roll' is registered already"):
            register_op("test_roll", pillow=roll)(lambda images, values: images)
    finally:
        del OPERATIONS._objects["test_roll"]


@pytest.mark.parametrize("backend", TENSOR_BACKENDS)
def test_a_kernel_that_returns_something_else_is_named(backend):
    @register_op("test_float", pillow=lambda image, value: image)
    def halved(images, values):
        return images / 2

    try:
        plan = Plan.sample(
            SearchSpace("s", [Choice("test_float")]), 4, height=32, width=32, generator=generator(), num_operations=1
        )
        with pytest.raises(ConfigurationError, match="The kernel halved returned"):
            apply(plan, noise(4), backend=backend)
    finally:
        del OPERATIONS._objects["test_float"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 3, 32, 32), np.uint8), "images are ndarray; expected a tensor. Use torch.from_numpy(images)"),
        (noise(4).float(), "images are torch.float32; expected torch.uint8, 0..255. Augment before normalising"),
        (noise(4, channels=2), "with 1 channel (gray) or 3 (RGB)"),
        (noise(4).permute(0, 2, 3, 1), "Permute channels-last images with images.permute(0, 3, 1, 2)"),
        (noise(4)[0], "images are [3, 32, 32]; expected [n, channels, height, width]"),
        (noise(4)[:0], "images are [0, 3, 32, 32]; expected at least one image"),
        (noise(4)[:, :, :0], "images are [4, 3, 0, 32]; expected at least one image, and 1..32767 pixels a side"),
        (noise(3), "The plan is for 4 images of 32x32 pixels (height x width); found 3 of 32x32. Make a plan for this"),
        (noise(4, height=16), "found 4 of 16x32"),
    ],
    ids=lambda value: str(list(value.shape)) if isinstance(value, torch.Tensor) else "",
)
def test_images_that_do_not_fit_are_refused(images, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        apply(plan_for(noise(4)), images)


def test_another_device_or_backend_is_refused():
    with pytest.raises(DeviceError, match=re.escape("images are on meta, the plan on cpu. Use plan.to(images.device)")):
        apply(plan_for(noise(4)), noise(4).to("meta"))
    with pytest.raises(UnknownNameError, match=r"called 'pilow'\. Did you mean 'pillow'"):
        apply(plan_for(noise(4)), noise(4), backend="pilow")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [20, 140])
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_memory_order_is_nobody_s_business(order, side, channels):
    shape = (3, channels, side + 10, side)
    inverse = [order.index(axis) for axis in range(4)]
    images = torch.randint(256, [shape[axis] for axis in order], dtype=torch.uint8).permute(inverse)
    assert images.shape == shape
    plan = Plan.sample(SPACES["wl"], 3, height=side + 10, width=side, generator=generator(), num_operations=2)
    before, done = images.clone(), apply(plan, images)
    assert torch.equal(done, apply(plan, images, backend="pillow"))
    assert torch.equal(images, before)
    assert done.is_contiguous()


@pytest.mark.parametrize("side", [20, 150])
def test_a_kernel_that_writes_into_its_images_does_not_reach_the_caller_s(side):
    @register_op(f"test_in_place_{side}", unit="x", pillow=lambda image, value: image)
    def in_place(images, values):
        return images.zero_()

    space = SearchSpace("s", [Choice(f"test_in_place_{side}")])
    images = torch.ones(4, 3, side, side, dtype=torch.uint8)
    plan = Plan.sample(space, 4, height=side, width=side, generator=generator(), num_operations=1)
    assert not apply(plan, images).any()
    assert images.all()
